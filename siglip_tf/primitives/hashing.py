"""A counter-based hash of uint32 tensors. Its random bits depend on ids only, and not on how a batch is divided."""

import tensorflow as tf

_GOLDEN = 0x9E3779B1


def hash_bits(*ids: tf.Tensor | int) -> tf.Tensor:
    """Returns random bits for a tuple of ids, by MurmurHash3's finalizer, which is applied once for each id.

    Args:
        ids: int32 tensors that broadcast together, or Python integers below 2^31.

    Returns:
        uint32 of the broadcast shape.
    """
    bits = tf.zeros((), tf.uint32)
    for part in ids:
        part = tf.bitcast(tf.convert_to_tensor(part, tf.int32), tf.uint32)
        bits = _mix(tf.bitwise.bitwise_xor(bits * tf.constant(_GOLDEN, tf.uint32), part + tf.constant(1, tf.uint32)))
    return bits


def _mix(bits):
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        bits = tf.bitwise.bitwise_xor(bits, tf.bitwise.right_shift(bits, tf.constant(shift, tf.uint32)))
        bits *= tf.constant(factor, tf.uint32)
    return tf.bitwise.bitwise_xor(bits, tf.bitwise.right_shift(bits, tf.constant(16, tf.uint32)))
