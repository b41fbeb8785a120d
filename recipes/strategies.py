"""The distribution strategy of this machine, found by looking: several workers, a TPU, several GPUs, one device."""

from __future__ import annotations

import os

import tensorflow as tf


def find_strategy() -> tf.distribute.Strategy:
    """MultiWorkerMirroredStrategy where TF_CONFIG is set, TPUStrategy where there is a TPU, MirroredStrategy over
    several GPUs, else the default strategy of one device.

    Call it before anything else of TensorFlow runs: the workers' connections are made here.
    """
    if os.environ.get("TF_CONFIG"):
        return tf.distribute.MultiWorkerMirroredStrategy()
    if os.environ.get("TPU_NAME") or tf.config.list_physical_devices("TPU"):
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect(os.environ.get("TPU_NAME") or "local")
        return tf.distribute.TPUStrategy(resolver)
    gpus = tf.config.list_logical_devices("GPU")
    if len(gpus) > 1:
        # The default reduction cannot run several steps in one call (`steps_per_execution`).
        return tf.distribute.MirroredStrategy(cross_device_ops=tf.distribute.ReductionToOneDevice())
    return tf.distribute.get_strategy()


def describe(strategy: tf.distribute.Strategy) -> str:
    """One line for people."""
    replicas = strategy.num_replicas_in_sync
    if not tf.distribute.has_strategy() and strategy is tf.distribute.get_strategy():
        kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
    else:
        kind = type(strategy).__name__.removesuffix("V2").removesuffix("V1")
    return f"{kind}, {replicas} replica{'s' * (replicas != 1)}"
