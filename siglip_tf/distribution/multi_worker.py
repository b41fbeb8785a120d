"""The hop under MultiWorkerMirroredStrategy: a broadcast in a group of two for every edge of the ring."""

import itertools

import tensorflow as tf

from siglip_tf.distribution.ring import StrategyRing

# Far from the keys that tf.distribute hands out (it counts up from small numbers).
_GROUP_KEY = 1_700_000_000
_INSTANCE_KEY = 1_600_000_000
_TIMEOUT_SECONDS = 45.0
_MAX_EDGES = 1_000_000


class MultiWorkerRing(StrategyRing):
    """One device in each of D worker processes; point to point, nothing is gathered.

    A stalled or dead neighbour ends the step with an error within a minute: the receive has a timeout, and the
    coordination service of TensorFlow reports a closed connection.
    """

    loops = True
    # Both sides of an edge must agree on the instance key of a call site: tracing is the same program everywhere, so
    # every worker counts the same call sites in the same order.
    _call_sites = itertools.count()

    def __init__(self, strategy, context):
        if strategy.extended._num_devices_per_worker != 1:
            raise ValueError(
                "The ring under MultiWorkerMirroredStrategy needs one device a worker. Received: "
                f"{strategy.extended._num_devices_per_worker} devices. Start one worker process a device "
                "(CUDA_VISIBLE_DEVICES) and list them all in TF_CONFIG."
            )
        super().__init__(context)
        self._rank = strategy.cluster_resolver.task_id

    def shift(self, tensors):
        return [self._shift(t) for t in tensors]

    def _shift(self, tensor):
        instance_key = _INSTANCE_KEY + next(self._call_sites)
        source = (self._rank - 1) % self.size
        sent = tf.raw_ops.CollectiveBcastSendV2(
            input=tensor,
            group_size=2,
            group_key=_GROUP_KEY + self._rank,
            instance_key=instance_key,
            timeout_seconds=_TIMEOUT_SECONDS,
        )
        received = tf.raw_ops.CollectiveBcastRecvV2(
            group_size=2,
            group_key=_GROUP_KEY + source,
            instance_key=instance_key,
            shape=tf.constant(tensor.shape.as_list(), tf.int32),
            T=tensor.dtype,
            timeout_seconds=_TIMEOUT_SECONDS,
        )
        with tf.control_dependencies([sent]):
            return tf.ensure_shape(tf.identity(received), tensor.shape)
