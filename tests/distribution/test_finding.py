"""The strategy that is chosen for what a machine has."""

import json

import pytest
import tensorflow as tf

from siglip_tf.distribution import finding, tpu_system
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
    assert describe(strategy) == f"MirroredStrategy, {replicas} replicas (sums on one CPU device)"


def test_several_gpus_sum_by_nccl_unless_steps_are_looped(gpus):
    gpus(2)
    for steps, operations, reason in (
        (1, tf.distribute.NcclAllReduce, "sums by NCCL"),
        (8, tf.distribute.HierarchicalCopyAllReduce, "NCCL does not work with steps_per_execution=8"),
    ):
        strategy = find_strategy(steps_per_execution=steps)
        assert strategy.num_replicas_in_sync == 2
        assert isinstance(strategy.extended._cross_device_ops, operations)
        assert reason in describe(strategy)
    gpus(1)
    assert find_strategy(cpus=True) is tf.distribute.get_strategy()


def test_memory_grows_and_bfloat16_is_chosen_where_every_gpu_has_it(monkeypatch):
    grown = []
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", lambda gpu, on: grown.append((gpu, on)))
    finding.prepare_gpus(["GPU:0", "GPU:1"])
    assert grown == [("GPU:0", True), ("GPU:1", True)]
    details = {"V100": {"compute_capability": (7, 0)}, "A100": {"compute_capability": (8, 0)}, "new": {}}
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda gpu: details[gpu])
    for names, policy in (
        ([], "float32"),
        (["A100"], "mixed_bfloat16"),
        (["A100", "A100"], "mixed_bfloat16"),
        (["A100", "V100"], "float32"),
        (["V100"], "float32"),
        (["new"], "float32"),
    ):
        assert finding.recommended_dtype_policy(names) == policy, names


def test_workers_with_gpus_ask_for_nccl(monkeypatch, gpus):
    made = {}

    class Strategy:
        def __init__(self, resolver, communication_options):
            made.update(resolver=resolver, options=communication_options)

    monkeypatch.setattr(tf.distribute, "MultiWorkerMirroredStrategy", Strategy)
    monkeypatch.setattr(finding, "meet", lambda cluster: made.update(met=cluster.addresses))
    monkeypatch.setattr(finding, "check_own_port", lambda cluster: None)
    monkeypatch.setattr(finding, "prepare_gpus", lambda gpus: None)
    tasks = {"chief": ["a:1"], "worker": ["b:1"]}
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": tasks, "task": {"type": "worker", "index": 0}}))
    for there, name in ((["GPU:0"], "NCCL"), ([], "AUTO")):
        monkeypatch.setattr(
            tf.config, "list_physical_devices", lambda kind=None, there=there: there if kind == "GPU" else []
        )
        find_strategy()
        assert made["options"].implementation.name == name
        assert made["met"] == ["a:1", "b:1"] and made["resolver"].cluster_spec().as_dict() == tasks


@pytest.mark.parametrize(("devices", "cpus"), [(0, True), (9, True), (2, False)])
def test_devices_that_are_not_here_are_refused(devices, cpus):
    with pytest.raises(ValueError, match=f"devices, as this machine has. Received: {devices}"):
        local_strategy(devices, cpus=cpus)


def test_a_tpu_comes_before_gpus_and_does_not_go_with_workers(monkeypatch, gpus):
    gpus(2)
    resolver = tf.distribute.cluster_resolver.TPUClusterResolver
    monkeypatch.setattr(resolver, "connect", staticmethod(lambda name: f"connected to {name}"))
    monkeypatch.setattr(tf.distribute, "TPUStrategy", lambda resolver: ("TPU", resolver))
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: ["chip"] if kind == "TPU" else [])
    assert find_strategy() == ("TPU", "connected to local")
    monkeypatch.setenv("TPU_NAME", "pod")
    assert find_strategy() == ("TPU", "connected to pod")
    monkeypatch.setenv("TF_CONFIG", "{}")  # no cluster: one machine
    assert find_strategy() == ("TPU", "connected to pod")
    tasks = {"worker": ["a:1", "b:1"]}
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": tasks, "task": {"type": "worker", "index": 0}}))
    with pytest.raises(TPUError, match="Received both: TF_CONFIG and TPU_NAME=pod"):
        find_strategy()


def test_chips_that_tensorflow_does_not_find_are_an_error_and_not_a_processor(monkeypatch):
    monkeypatch.setattr(tpu_system, "attached_chips", lambda: 4)
    with pytest.raises(TPUError, match="has 4 TPU chips, and TensorFlow .* finds none"):
        find_strategy()
    with pytest.raises(TPUError, match="no TPU chips|cannot use TPU"):
        tpu_system.connect("local")
