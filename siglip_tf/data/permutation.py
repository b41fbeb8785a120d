"""A seeded shuffle of [0, n) that is computed one index at a time: nothing of size n exists.

A Feistel network permutes the smallest 2^(2h) >= n; an image outside [0, n) is sent through it again until it falls
inside, which keeps the map one-to-one (cycle walking).

Source: Luby and Rackoff, "How to construct pseudorandom permutations from pseudorandom functions" (1988);
Black and Rogaway, "Ciphers with arbitrary finite domains" (2002).
"""

import tensorflow as tf

_ROUNDS = 6
_WORD = (1 << 32) - 1
# The largest domain that `permute` takes.
MAX_SIZE = 1 << 62


def _int64(value: int | tf.Tensor) -> tf.Tensor:
    return tf.cast(value, tf.int64)


def mix(*parts: int | tf.Tensor) -> tf.Tensor:
    """A well-spread 32-bit hash of integers; tensors broadcast against each other.

    Args:
        parts: int64 in [0, 2^63), scalars or tensors of shapes that broadcast.

    Returns:
        int64 in [0, 2^32), of the broadcast shape.
    """
    state = _int64(0x243F6A88)
    for part in map(_int64, parts):
        for word in (part & _WORD, tf.bitwise.right_shift(part, _int64(32))):
            # Products stay below 2^63: a 32-bit word times a 31-bit odd constant.
            state = _avalanche((state ^ word) * 0x3C6EF373 + 0x1B56C4E9 & _WORD)
    return state


def _avalanche(word: tf.Tensor) -> tf.Tensor:
    word = word ^ tf.bitwise.right_shift(word, _int64(16))
    word = word * 0x45D9F3B & _WORD
    word = word ^ tf.bitwise.right_shift(word, _int64(15))
    word = word * 0x2C1B3C6D & _WORD
    return word ^ tf.bitwise.right_shift(word, _int64(13))


def permute(index: tf.Tensor, size: int | tf.Tensor, key: int | tf.Tensor) -> tf.Tensor:
    """The image of each index under the permutation of [0, size) that `key` names.

    Args:
        index: int64, any shape, each in [0, size).
        size: int64, scalar or broadcasting against `index`, at most 2^62.
        key: int64, scalar or broadcasting against `index`.

    Returns:
        int64 of the shape of `index`: for one size and key all images differ and fill [0, size).
    """
    index = _int64(index)
    size = tf.broadcast_to(_int64(size), tf.shape(index))
    key = tf.broadcast_to(_int64(key), tf.shape(index))
    powers = tf.constant([1 << 2 * h for h in range(1, 31)], tf.int64)
    half = _int64(1 + tf.reduce_sum(tf.cast(size[..., None] > powers, tf.int32), axis=-1))
    mask = tf.bitwise.left_shift(tf.ones_like(half), half) - 1
    keys = [mix(key, r) for r in range(_ROUNDS)]

    def network(x: tf.Tensor) -> tf.Tensor:
        left, right = tf.bitwise.right_shift(x, half), x & mask
        for round_key in keys:
            left, right = right, left ^ (_avalanche((right * 0x2545F491 & _WORD) ^ round_key) & mask)
        return tf.bitwise.left_shift(left, half) | right

    (image,) = tf.while_loop(
        lambda image: tf.reduce_any(image >= size),
        lambda image: (tf.where(image >= size, network(image), image),),
        (network(index),),
    )
    return image
