"""Graph code that the readers of image files share: reading bytes of a string, and branches that cost nothing."""

import functools
from collections.abc import Callable, Hashable
from typing import Any

import tensorflow as tf


@functools.cache
def _apart(function: Callable[..., tf.Tensor], signature: tuple[tf.TensorSpec, ...], options: tuple) -> Any:
    """Returns a separate graph, which is traced once per process for all pipelines that call it."""
    return tf.function(
        functools.partial(function, **dict(options)),
        input_signature=signature,
        autograph=False,
        experimental_attributes={"_noinline": True},
    )


def rarely(function: Callable[..., tf.Tensor], *inputs: tf.Tensor, **options: Hashable) -> Callable[[], tf.Tensor]:
    """Returns a branch for `tf.cond` that costs nothing if it is not taken.

    TensorFlow inlines ordinary branches and schedules every op of a branch that is not taken as a dead op. Eager code
    calls the function directly, because a trace for every image would cost time and memory.

    Args:
        function: a module-level function, so that it is the same object in every call.
        inputs: its tensors.
        options: its keyword arguments.
    """
    if tf.executing_eagerly():
        return lambda: function(*inputs, **options)
    signature = tuple(tf.TensorSpec(value.shape, value.dtype) for value in inputs)
    return lambda: _apart(function, signature, tuple(sorted(options.items())))(*inputs)


def assert_that(condition: tf.Tensor, data: list[Any]) -> tf.Operation:
    """Like `tf.debugging.Assert` without its branch, whose ops cost 3% of the time to decode a JPEG."""
    if tf.executing_eagerly():
        return tf.debugging.Assert(condition, data)
    return tf.raw_ops.Assert(condition=condition, data=[tf.convert_to_tensor(each) for each in data], summarize=3)


def part(data: tf.Tensor, offset: tf.Tensor | int, count: tf.Tensor | int) -> tf.Tensor:
    """Returns a scalar string: `count` bytes of the scalar string from `offset` on, and fewer if it ends before.

    `offset` must not be negative.

    `tf.strings.substr` refuses an offset beyond the end, with an error that repeats the whole string. Where that is no
    UTF-8, Python cannot even make an exception of the error, and raises a UnicodeDecodeError.
    """
    return tf.strings.substr(data, tf.minimum(offset, tf.strings.length(data)), count)


def read_bytes(data: tf.Tensor, offset: tf.Tensor | int, count: int) -> tf.Tensor:
    """Returns int32 (count,): the bytes of the scalar string from `offset` on, and zeros beyond its end."""
    return tf.cast(tf.io.decode_raw(part(data, offset, count), tf.uint8, fixed_length=count), tf.int32)


def starts_with(data: tf.Tensor, text: bytes, offset: int = 0) -> tf.Tensor:
    """Returns a bool scalar: whether the scalar string holds `text` at `offset`. It is False beyond the end."""
    return part(data, offset, len(text)) == text


def contains(data: tf.Tensor, pattern: str) -> tf.Tensor:
    """Returns whether each string holds a match of a regular expression of ASCII characters: bool, shaped like `data`.

    The search for a literal runs at memory speed, several times faster than one step of a loop over file segments.
    """
    without = tf.strings.regex_replace(data, pattern, "", replace_global=False)
    return tf.strings.length(without) < tf.strings.length(data)


def little_endian(values: tf.Tensor) -> tf.Tensor:
    """Returns the int64 scalar that int32 bytes (count,) form, the least significant byte first."""
    return _weighted(values, [256**i for i in range(values.shape[0])])


def big_endian(values: tf.Tensor) -> tf.Tensor:
    """Returns the int64 scalar that int32 bytes (count,) form, the most significant byte first."""
    return _weighted(values, [256**i for i in reversed(range(values.shape[0]))])


def _weighted(values: tf.Tensor, powers: list[int]) -> tf.Tensor:
    return tf.reduce_sum(tf.cast(values, tf.int64) * tf.constant(powers, tf.int64))
