"""The hop under MirroredStrategy: neighbour copies inside a merge call, by public API alone."""

import tensorflow as tf

from siglip_tf.distribution.ring import StrategyRing


class MirroredRing(StrategyRing):
    """Replicas in one process. `merge_call` cannot be traced inside `tf.while_loop`, hence `loops = False`."""

    loops = False

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
