"""MirroredStrategy over the logical CPU devices of `conftest.py`.

The default reduction numbers its collectives anew in every strategy, but TensorFlow remembers the shape and the group
of each number for as long as the process lives: two strategies with it disturb each other.
"""

import functools

import tensorflow as tf


@functools.cache
def two_replicas() -> tf.distribute.MirroredStrategy:
    """Two replicas with the default reduction, the same strategy for every test."""
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


def mirrored(replicas: int) -> tf.distribute.MirroredStrategy:
    """A new strategy that reduces without collectives, so that any number of them can be made."""
    devices = [f"CPU:{i}" for i in range(replicas)]
    return tf.distribute.MirroredStrategy(devices, cross_device_ops=tf.distribute.ReductionToOneDevice())
