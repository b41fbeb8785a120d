"""The hop under TPUStrategy: one `CollectivePermute`, which the TPU compiler runs beside the matmuls."""

import tensorflow as tf

from siglip_tf.distribution.ring import StrategyRing


class TPURing(StrategyRing):
    """Chips of a slice. Permute ids need not equal replica ids, so nothing here derives a position from them."""

    loops = True

    def shift(self, tensors):
        pairs = tf.constant([[i, (i + 1) % self.size] for i in range(self.size)], tf.int32)
        # The op has no shape inference of its own.
        return [tf.reshape(tf.raw_ops.CollectivePermute(input=t, source_target_pairs=pairs), t.shape) for t in tensors]
