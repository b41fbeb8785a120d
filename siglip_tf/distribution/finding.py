"""The distribution strategy of this machine, found by looking: several workers, a TPU, several GPUs, one device."""

from __future__ import annotations

import os

import tensorflow as tf

from siglip_tf.distribution.cluster import check_own_port, read_tf_config
from siglip_tf.distribution.rendezvous import meet
from siglip_tf.distribution.tpu_system import TPUError, connect, has_tpu
from siglip_tf.primitives.compilation import are_ampere_or_later

_REASONS = "_siglip_tf_reason"  # Set on a strategy: why it was chosen, for `describe`.


def find_strategy(
    devices: int | None = None, *, cpus: bool = False, steps_per_execution: int = 1
) -> tf.distribute.Strategy:
    """MultiWorkerMirroredStrategy where TF_CONFIG names several workers, else this machine's `local_strategy`.

    Call it before anything else of TensorFlow runs: the workers' connections are made here. Several workers with a TPU
    are refused: they would train on their hosts' processors. One process trains on all hosts of a TPU.

    Args:
        devices: as `local_strategy` takes it.
        cpus: as `local_strategy` takes it.
        steps_per_execution: as `local_strategy` takes it.

    Raises:
        ValueError: more devices than there are, or fewer than one; a TF_CONFIG that cannot train, a port that is taken,
            several workers with a TPU, or a TPU that cannot be used. Nothing has started then.
        TimeoutError: a worker has not come within ten minutes.
    """
    cluster = read_tf_config(os.environ.get("TF_CONFIG"))
    if cluster is None or len(cluster.addresses) == 1:
        return local_strategy(devices, cpus=cpus, steps_per_execution=steps_per_execution)
    if has_tpu():
        named = f"TPU_NAME={os.environ['TPU_NAME']}" if os.environ.get("TPU_NAME") else "TPU chips on this machine"
        raise TPUError(
            f"Expected TF_CONFIG or a TPU. Received both: TF_CONFIG and {named}. Workers by TF_CONFIG do not use "
            "the chips. Unset TF_CONFIG and run one coordinator with an input process on every host (docs/tpu.md), "
            "or unset TPU_NAME to train on GPUs."
        )
    check_own_port(cluster)
    gpus = tf.config.list_physical_devices("GPU")
    prepare_gpus(gpus)
    options = tf.distribute.experimental.CommunicationOptions(
        implementation=tf.distribute.experimental.CommunicationImplementation.NCCL
        if gpus
        else tf.distribute.experimental.CommunicationImplementation.AUTO
    )
    meet(cluster)
    strategy = tf.distribute.MultiWorkerMirroredStrategy(cluster.resolver(), communication_options=options)
    return _because(strategy, f"{len(cluster.addresses)} workers in TF_CONFIG; sums by {'NCCL' if gpus else 'gRPC'}")


def local_strategy(
    devices: int | None = None, *, cpus: bool = False, steps_per_execution: int = 1
) -> tf.distribute.Strategy:
    """TPUStrategy where there is a TPU, MirroredStrategy over several devices, else the default strategy of one.

    Args:
        devices: how many GPUs, or CPU devices; all accelerators by default.
        cpus: whether several logical CPU devices, where there is no accelerator, are a replica each.
        steps_per_execution: as `compile` will get it. Above 1, NCCL cannot sum the gradients of several GPUs.

    Raises:
        ValueError: more devices than there are, or fewer than one; a TPU that cannot be used.
    """
    if devices is None and has_tpu():
        return connect()
    prepare_gpus(tf.config.list_physical_devices("GPU"))
    gpus = tf.config.list_logical_devices("GPU")
    there = gpus or tf.config.list_logical_devices("CPU")[: None if cpus else 1]
    if devices is not None and not 1 <= devices <= len(there):
        raise ValueError(f"Expected 1 to {len(there)} devices, as this machine has. Received: {devices}.")
    names = [device.name for device in there[:devices]]
    if len(names) == 1:
        return tf.distribute.get_strategy()
    operations, reason = reduction(bool(gpus), steps_per_execution)
    return _because(tf.distribute.MirroredStrategy(names, cross_device_ops=operations), reason)


def reduction(gpus: bool, steps_per_execution: int = 1) -> tuple[tf.distribute.CrossDeviceOps, str]:
    """How MirroredStrategy sums gradients over its devices, and why, for people.

    TensorFlow's NCCL and collective sums fail inside the loop that `steps_per_execution > 1` makes. There the sum goes
    over one card, by a tree within each half of the machine where there are GPUs.
    """
    if not gpus:
        return tf.distribute.ReductionToOneDevice(), "sums on one CPU device"
    if steps_per_execution > 1:
        reason = f"sums by hierarchical copies, as NCCL does not work with steps_per_execution={steps_per_execution}"
        return tf.distribute.HierarchicalCopyAllReduce(), reason
    return tf.distribute.NcclAllReduce(), "sums by NCCL"


def prepare_gpus(gpus: list[tf.config.PhysicalDevice]) -> None:
    """Lets each GPU's memory grow, so that other programs find room. Nothing changes once TensorFlow has started."""
    for gpu in gpus:
        try:
            tf.config.experimental.set_memory_growth(gpu, True)
        except RuntimeError:
            return


def recommended_dtype_policy(gpus: list[tf.config.PhysicalDevice] | None = None) -> str:
    """ "mixed_bfloat16" on TPUs and where every GPU computes in bfloat16 (Ampere and later), else "float32".

    Args:
        gpus: those of this machine by default.
    """
    if isinstance(tf.distribute.get_strategy(), tf.distribute.TPUStrategy):
        return "mixed_bfloat16"
    gpus = tf.config.list_physical_devices("GPU") if gpus is None else gpus
    return "mixed_bfloat16" if gpus and are_ampere_or_later(gpus) else "float32"


def describe(strategy: tf.distribute.Strategy) -> str:
    """One line for people: the strategy, its replicas, and why it is as it is."""
    replicas = strategy.num_replicas_in_sync
    if not tf.distribute.has_strategy() and strategy is tf.distribute.get_strategy():
        kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
    else:
        kind = type(strategy).__name__.removesuffix("V2").removesuffix("V1")
        if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
            kind = "MultiWorkerMirroredStrategy"  # Its class has another name.
    reason = getattr(strategy, _REASONS, None)
    return f"{kind}, {replicas} replica{'s' * (replicas != 1)}" + (f" ({reason})" if reason else "")


def _because(strategy, reason):
    setattr(strategy, _REASONS, reason)
    return strategy
