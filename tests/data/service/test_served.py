"""Input processes and a coordinator: the same batches, the same positions, and what is refused."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from siglip_tf.data.images.augmentation import Augmentation
from siglip_tf.data.order.bad_records import TooManyBadRecordsError
from siglip_tf.data.service import InputProcessError, ServedData
from siglip_tf.data.service.watch import check_limit
from tests.data.service.sources import BATCH, IN_MEMORY, training_data

ROOT = Path(__file__).parents[3]


def served_by(*arguments, cwd=ROOT):
    """A process of input servers, and their ports."""
    command = [sys.executable, "-m", "tests.data.service.sources", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=cwd)
    line = process.stdout.readline()
    assert line.startswith("ports"), line
    return process, [int(port) for port in line.split()[1:]]


@pytest.fixture(scope="module")
def inputs(request, tmp_path_factory):
    """kind -> addresses of two input servers, all in one process; of the kinds that the chosen tests need."""
    here = [item for item in request.node.session.items if item.module is request.module]
    asked = {item.callspec.params.get("kind") for item in here if hasattr(item, "callspec")}
    kinds = [kind for kind in IN_MEMORY if kind in asked | {"memory", "mixture"}]
    process, ports = served_by(tmp_path_factory.mktemp("none"), "0,1", 2, 0, *kinds)
    yield {kind: [f"localhost:{port}" for port in ports[i :: len(kinds)]] for i, kind in enumerate(kinds)}
    process.kill()
    process.communicate()


def arrays(dataset, count):
    return list(dataset.take(count).as_numpy_iterator())


def assert_same(found, wanted):
    for mine, theirs in zip(found, wanted, strict=True):
        assert mine.keys() == theirs.keys()
        for key, value in theirs.items():
            np.testing.assert_array_equal(mine[key], value)


@pytest.mark.parametrize("kind", ["mixture", *(pytest.param(k, marks=pytest.mark.slow) for k in ("memory", "runs"))])
def test_batches_and_positions_are_those_of_one_host(inputs, kind, tmp_path):
    local = training_data(kind, tmp_path, streams=2)
    wanted = arrays(local.dataset(), 24)
    served = ServedData(training_data(kind, tmp_path), inputs[kind])
    with served.guard():
        assert_same(arrays(served.dataset(), 24), wanted)
        assert served.state(13) == local.state(13)
        assert served.accounting(24) == local.accounting(24)
        assert served.accounting(24)["used"] == 24 * BATCH and served.accounting(24)["skipped"] > 0
        state = served.state(13)
    # Another coordinator continues from the first one's checkpoint, with the addresses in another order.
    again = ServedData(training_data(kind, tmp_path), inputs[kind][::-1])
    again.restore(state)
    with again.guard():
        assert_same(arrays(again.dataset(), 11), wanted[13:])
        assert again.accounting(24) == local.accounting(24)


def test_each_replica_of_each_host_gets_its_part(inputs, tmp_path):
    (wanted,) = arrays(training_data("memory", tmp_path, streams=2).dataset(), 1)
    served = ServedData(training_data("memory", tmp_path), inputs["memory"])
    parts = []
    for host in range(2):
        context = tf.distribute.InputContext(2, host, 4)
        parts += arrays(served.dataset(context), 2)
    assert_same([{key: np.concatenate([part[key] for part in parts]) for key in wanted}], [wanted])


def test_what_does_not_fit_is_refused_before_the_first_batch(inputs, tmp_path):
    first, second = inputs["memory"]
    data = training_data("memory", tmp_path)
    for given, addresses, message in (
        (data, [first], f"{first} makes share 0 of 2, but the coordinator was given 1"),
        (data, [first, first], "different addresses"),
        (data, ["nowhere"], "HOST:PORT. Received: 'nowhere'"),
        (data, [first, inputs["mixture"][1]], "its data .* is '\\w+', the coordinator's '\\w+'"),
        (
            training_data("memory", tmp_path, augmentation=Augmentation(flip=True)),
            [first, second],
            "settings of batches is .*'augmentation': None.*, the coordinator's .*'flip': True",
        ),
        (training_data("memory", tmp_path, seed=7), [first, second], "its seed is 0, the coordinator's 7"),
        (training_data("memory", tmp_path, streams=4), [first, second], "its streams is 2, the coordinator's 4"),
    ):
        with pytest.raises(ValueError, match=message):
            ServedData(given, addresses)
    # Two input processes for one share: 0 of `memory` under two names.
    with pytest.raises(ValueError, match="both make share 0 of 2"):
        ServedData(data, [first, first.replace("localhost", "127.0.0.1")])
    with pytest.raises(ValueError, match="5 replicas divide. Received: 24"):
        ServedData(data, [first, second]).dataset(tf.distribute.InputContext(1, 0, 5))
    with pytest.raises(ValueError, match="2 input processes cannot feed 4 hosts"):
        ServedData(data, [first, second]).dataset(tf.distribute.InputContext(4, 0, 4))
    with pytest.raises(InputProcessError, match="No input process answers at localhost:1 .*tools.tpu_input"):
        ServedData(data, ["localhost:1"], wait=0)


def test_a_coordinator_that_was_replaced_hears_of_it(inputs, tmp_path):
    served = ServedData(training_data("memory", tmp_path), inputs["memory"])
    served.dataset()
    ServedData(training_data("memory", tmp_path), inputs["memory"]).dataset()
    with pytest.raises(InputProcessError, match="it was restarted, or another coordinator took it over"):
        served.state(0)


def test_broken_records_are_limited_over_all_input_processes():
    statuses = [{"passed": 5000, "skipped": {"not_utf8": 90}}, {"passed": 5000, "skipped": {}}]
    check_limit(statuses, 0.01)
    with pytest.raises(TooManyBadRecordsError, match=re.escape("90 of 10000 records are broken (90 not_utf8)")):
        check_limit(statuses, 0.005)
    with pytest.raises(TooManyBadRecordsError, match="more than 80 records"):
        check_limit(statuses, 80)
