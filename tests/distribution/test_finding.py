"""The strategy that is chosen for what a machine has."""

import pytest
import tensorflow as tf

from siglip_tf.distribution import tpu_system
from siglip_tf.distribution.finding import describe, find_strategy, local_strategy
from siglip_tf.distribution.tpu_system import TPUError


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch):
    for name in ("TF_CONFIG", "TPU_NAME"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def gpus(monkeypatch):
    """Shows the CPU devices as GPUs, as many as asked for."""
    cpus = tf.config.list_logical_devices("CPU")

    def show(count):
        monkeypatch.setattr(
            tf.config, "list_logical_devices", lambda kind=None: cpus[:count] if kind == "GPU" else cpus
        )

    return show


@pytest.mark.parametrize(("devices", "cpus"), [(None, False), (1, False), (1, True)])
def test_one_device_needs_no_strategy(devices, cpus):
    strategy = find_strategy(devices, cpus=cpus)
    assert strategy is tf.distribute.get_strategy()
    assert describe(strategy) == "CPU, 1 replica"


@pytest.mark.parametrize(("devices", "replicas"), [(None, 8), (3, 3)])
def test_cpu_devices_are_replicas_where_asked_for(devices, replicas):
    strategy = find_strategy(devices, cpus=True)
    assert isinstance(strategy, tf.distribute.MirroredStrategy)
    assert describe(strategy) == f"MirroredStrategy, {replicas} replicas"


def test_several_gpus_run_several_steps_in_a_call(gpus):
    gpus(2)
    strategy = find_strategy()
    assert strategy.num_replicas_in_sync == 2
    assert isinstance(strategy.extended._cross_device_ops, tf.distribute.ReductionToOneDevice)
    gpus(1)
    assert find_strategy(cpus=True) is tf.distribute.get_strategy()


@pytest.mark.parametrize(("devices", "cpus"), [(0, True), (9, True), (2, False)])
def test_devices_that_are_not_here_are_refused(devices, cpus):
    with pytest.raises(ValueError, match=f"devices, which are here. Received: {devices}"):
        local_strategy(devices, cpus=cpus)


def test_a_tpu_comes_before_gpus_and_does_not_go_with_workers(monkeypatch, gpus):
    gpus(2)
    resolver = tf.distribute.cluster_resolver.TPUClusterResolver
    monkeypatch.setattr(resolver, "connect", staticmethod(lambda name: f"connected to {name}"))
    monkeypatch.setattr(tf.distribute, "TPUStrategy", lambda resolver: ("TPU", resolver))
    monkeypatch.setattr(tf.distribute, "MultiWorkerMirroredStrategy", lambda: "workers")
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: ["chip"] if kind == "TPU" else [])
    assert find_strategy() == ("TPU", "connected to local")
    monkeypatch.setenv("TPU_NAME", "pod")
    assert find_strategy() == ("TPU", "connected to pod")
    monkeypatch.setenv("TF_CONFIG", "{}")
    with pytest.raises(TPUError, match="Received both: TF_CONFIG and TPU_NAME=pod"):
        find_strategy()
    monkeypatch.delenv("TPU_NAME")
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: [])
    assert find_strategy() == "workers"


def test_chips_that_tensorflow_does_not_find_are_an_error_and_not_a_processor(monkeypatch):
    monkeypatch.setattr(tpu_system, "attached_chips", lambda: 4)
    with pytest.raises(TPUError, match="has 4 TPU chips, and TensorFlow .* finds none"):
        find_strategy()
    with pytest.raises(TPUError, match="no TPU chips|cannot use TPU"):
        tpu_system.connect("local")
