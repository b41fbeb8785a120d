"""Finds the distribution strategy of this machine: for several workers, a TPU, several GPUs, or one device."""

from __future__ import annotations

import os

import tensorflow as tf

from siglip_tf.distribution.cluster import check_own_port, read_tf_config
from siglip_tf.distribution.rendezvous import meet
from siglip_tf.distribution.tpu_system import TPUError, connect, has_tpu
from siglip_tf.primitives.compilation import are_ampere_or_later

_REASONS = "_siglip_tf_reason"  # The attribute of a strategy that says why it was chosen, for `describe`.


def find_strategy(
    devices: int | None = None, *, cpus: bool = False, steps_per_execution: int = 1
) -> tf.distribute.Strategy:
    """Returns a MultiWorkerMirroredStrategy if TF_CONFIG names several workers, or else the `local_strategy`.

    Call it before any other TensorFlow code runs, because it connects the workers. Several workers with a TPU are
    refused, because they would train on their hosts' processors. A single process trains on all hosts of a TPU.

    Args:
        devices: see `local_strategy`.
        cpus: see `local_strategy`.
        steps_per_execution: see `local_strategy`.

    Raises:
        ValueError: `devices` is less than one or more than the machine has, TF_CONFIG cannot train, the port is taken,
            several workers have a TPU, or the TPU cannot be used. Nothing has started in these cases.
        TimeoutError: a worker has not started within ten minutes.
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
    """Returns TPUStrategy for a TPU, MirroredStrategy for several devices, or the default strategy for one device.

    Args:
        devices: number of GPUs, or of CPU devices without GPUs; all accelerators by default.
        cpus: whether each logical CPU device is a replica if there is no accelerator.
        steps_per_execution: the argument of `compile`. Above 1, NCCL cannot sum the gradients of several GPUs.

    Raises:
        ValueError: `devices` is less than one or more than the machine has, or the TPU cannot be used.
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
    """Returns how MirroredStrategy sums gradients over its devices, and the reason for people.

    TensorFlow's NCCL and collective sums fail inside the loop that `steps_per_execution > 1` makes. Such a run sums the
    gradients of GPUs by hierarchical copies.
    """
    if not gpus:
        return tf.distribute.ReductionToOneDevice(), "sums on one CPU device"
    if steps_per_execution > 1:
        reason = f"sums by hierarchical copies, as NCCL does not work with steps_per_execution={steps_per_execution}"
        return tf.distribute.HierarchicalCopyAllReduce(), reason
    return tf.distribute.NcclAllReduce(), "sums by NCCL"


def prepare_gpus(gpus: list[tf.config.PhysicalDevice]) -> None:
    """Lets each GPU's memory grow, so that other programs can use the rest. Has no effect after TensorFlow starts."""
    for gpu in gpus:
        try:
            tf.config.experimental.set_memory_growth(gpu, True)
        except RuntimeError:
            return


def recommended_dtype_policy(gpus: list[tf.config.PhysicalDevice] | None = None) -> str:
    """Returns "mixed_bfloat16" for TPUs, and if all GPUs compute in bfloat16 (Ampere and later), or else "float32".

    Args:
        gpus: the GPUs; by default those of this machine.
    """
    if isinstance(tf.distribute.get_strategy(), tf.distribute.TPUStrategy):
        return "mixed_bfloat16"
    gpus = tf.config.list_physical_devices("GPU") if gpus is None else gpus
    return "mixed_bfloat16" if gpus and are_ampere_or_later(gpus) else "float32"


def describe(strategy: tf.distribute.Strategy) -> str:
    """Describes a strategy in one line for people: its name, its number of replicas, and why it was chosen."""
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
