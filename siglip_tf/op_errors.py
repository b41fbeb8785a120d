"""Errors of ops whose messages repeat raw bytes, for which Python raises a UnicodeDecodeError instead."""

import contextlib
from collections.abc import Iterator

import tensorflow as tf


class RawBytesError(tf.errors.InvalidArgumentError):
    """An op's error that repeats bytes of its input that are no UTF-8, such as a record that is no `tf.train.Example`.

    Its kind is lost with its message. Ops repeat an input where it is what they refuse, hence "invalid argument".
    """


@contextlib.contextmanager
def op_errors() -> Iterator[None]:
    """Inside this block, an op's error is a `tf.errors.OpError`, whatever bytes its message holds.

    Raises:
        RawBytesError: where TensorFlow raises a UnicodeDecodeError. Its message spells the bytes as `\\x93`.
    """
    try:
        yield
    except UnicodeDecodeError as error:
        raise RawBytesError(None, None, error.object.decode(errors="backslashreplace")) from error
