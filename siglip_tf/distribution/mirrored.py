"""The hop under MirroredStrategy: neighbour copies inside a merge call, by public API alone."""

import tensorflow as tf

from siglip_tf.distribution.ring import Ring


class MirroredRing(Ring):
    """Replicas in one process. `merge_call` cannot be traced inside `tf.while_loop`, hence `loops = False`."""

    loops = False

    def __init__(self, context):
        self._context = context
        self.size = context.num_replicas_in_sync

    def shift(self, tensors):
        def merge(strategy, *values):
            rotated = []
            for value in values:
                local = strategy.experimental_local_results(value)
                rotated.append(
                    strategy.experimental_distribute_values_from_function(
                        lambda replica, local=local: local[(replica.replica_id_in_sync_group - 1) % self.size]
                    )
                )
            return rotated

        return [tf.identity(t) for t in self._context.merge_call(merge, args=tuple(tensors))]

    def sum(self, tensors):
        return list(self._context.all_reduce(tf.distribute.ReduceOp.SUM, list(tensors)))

    def index(self):
        return tf.constant(self._context.replica_id_in_sync_group, tf.int32)
