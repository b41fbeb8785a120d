"""The distribution strategy of this machine, found by looking: several workers, a TPU, several GPUs, one device."""

from __future__ import annotations

import os

import tensorflow as tf

from siglip_tf.distribution.tpu_system import TPUError, connect, has_tpu


def find_strategy(devices: int | None = None, *, cpus: bool = False) -> tf.distribute.Strategy:
    """MultiWorkerMirroredStrategy where TF_CONFIG is set, else this machine's `local_strategy`.

    Call it before anything else of TensorFlow runs: the workers' connections are made here. TF_CONFIG with a TPU is
    refused: the workers would train on their hosts' processors. One process trains on all hosts of a TPU.

    Args:
        devices: as `local_strategy` takes it.
        cpus: as `local_strategy` takes it.

    Raises:
        ValueError: more devices than there are, or fewer than one; TF_CONFIG with a TPU; a TPU that cannot be used.
    """
    if os.environ.get("TF_CONFIG"):
        if has_tpu():
            named = f"TPU_NAME={os.environ['TPU_NAME']}" if os.environ.get("TPU_NAME") else "TPU chips on this machine"
            raise TPUError(
                f"Expected TF_CONFIG or a TPU. Received both: TF_CONFIG and {named}. Workers by TF_CONFIG do not use "
                "the chips. Unset TF_CONFIG and run one coordinator with an input process on every host (docs/tpu.md), "
                "or unset TPU_NAME to train on GPUs."
            )
        return tf.distribute.MultiWorkerMirroredStrategy()
    return local_strategy(devices, cpus=cpus)


def local_strategy(devices: int | None = None, *, cpus: bool = False) -> tf.distribute.Strategy:
    """TPUStrategy where there is a TPU, MirroredStrategy over several devices, else the default strategy of one.

    Args:
        devices: how many GPUs, or CPU devices; all accelerators by default.
        cpus: whether several logical CPU devices, where there is no accelerator, are a replica each.

    Raises:
        ValueError: more devices than there are, or fewer than one; a TPU that cannot be used.
    """
    if devices is None and has_tpu():
        return connect()
    there = tf.config.list_logical_devices("GPU")
    if not there:
        there = tf.config.list_logical_devices("CPU")[: None if cpus else 1]
    if devices is not None and not 1 <= devices <= len(there):
        raise ValueError(f"Expected 1 to {len(there)} devices, which are here. Received: {devices}.")
    names = [device.name for device in there[:devices]]
    if len(names) == 1:
        return tf.distribute.get_strategy()
    # The default reduction cannot run several steps in one call (`steps_per_execution`).
    return tf.distribute.MirroredStrategy(names, cross_device_ops=tf.distribute.ReductionToOneDevice())


def describe(strategy: tf.distribute.Strategy) -> str:
    """One line for people."""
    replicas = strategy.num_replicas_in_sync
    if not tf.distribute.has_strategy() and strategy is tf.distribute.get_strategy():
        kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
    else:
        kind = type(strategy).__name__.removesuffix("V2").removesuffix("V1")
        if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
            kind = "MultiWorkerMirroredStrategy"  # Its class has another name.
    return f"{kind}, {replicas} replica{'s' * (replicas != 1)}"
