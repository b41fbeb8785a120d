"""The hops of the ring that have no public function in TensorFlow, and other internals of its strategies.

A hop sends one tensor to one neighbor. `tf.distribute.ReplicaContext` only offers all-reduce and all-gather, and a
gather of all texts would need the memory that the ring avoids. This file holds every use of a raw op or a private
attribute in this package, each with a test (`tests/distribution`). A public neighbor permute in
`tf.distribute.ReplicaContext`, such as `jax.lax.ppermute`, would replace `permute_on_tpu` and `shift_between_workers`.
A public `Strategy.num_devices_per_worker` would replace `devices_per_worker`.
"""

import itertools

import tensorflow as tf

# These keys are far from those of tf.distribute, which counts up from small numbers.
_GROUP_KEY = 1_700_000_000
_INSTANCE_KEY = 1_600_000_000
_TIMEOUT_SECONDS = 45.0
# Both sides of an edge must agree on the instance key of a call site. Every worker traces the same program, so all of
# them count the same call sites in the same order.
_call_sites = itertools.count()


def permute_on_tpu(tensor: tf.Tensor, replicas: int) -> tf.Tensor:
    """Returns the tensor of the previous replica by one `CollectivePermute`, which a TPU overlaps with matmuls.

    Args:
        tensor: any static shape and dtype.
        replicas: number of replicas of the slice. Permute ids need not equal replica ids, so do not derive a position
            from them.
    """
    pairs = tf.constant([[i, (i + 1) % replicas] for i in range(replicas)], tf.int32)
    # The op has no shape inference of its own.
    return tf.reshape(tf.raw_ops.CollectivePermute(input=tensor, source_target_pairs=pairs), tensor.shape)


def shift_between_workers(tensor: tf.Tensor, rank: int, workers: int) -> tf.Tensor:
    """Returns the tensor of the previous worker, by a broadcast in a group of two for every edge of the ring.

    If a neighbor stalls or never starts, the step ends with an error within a minute, because the receive has a
    timeout.

    Args:
        tensor: any static shape and dtype.
        rank: this worker's place in the ring, in [0, workers).
        workers: number of workers.
    """
    instance_key = _INSTANCE_KEY + next(_call_sites)
    sent = tf.raw_ops.CollectiveBcastSendV2(
        input=tensor,
        group_size=2,
        group_key=_GROUP_KEY + rank,
        instance_key=instance_key,
        timeout_seconds=_TIMEOUT_SECONDS,
    )
    received = tf.raw_ops.CollectiveBcastRecvV2(
        group_size=2,
        group_key=_GROUP_KEY + (rank - 1) % workers,
        instance_key=instance_key,
        shape=tf.constant(tensor.shape.as_list(), tf.int32),
        T=tensor.dtype,
        timeout_seconds=_TIMEOUT_SECONDS,
    )
    with tf.control_dependencies([sent]):
        return tf.ensure_shape(tf.identity(received), tensor.shape)


def devices_per_worker(strategy: tf.distribute.MultiWorkerMirroredStrategy) -> int:
    """Returns how many devices of one worker process are replicas."""
    return strategy.extended._num_devices_per_worker
