"""Bytes at any offset of files, in-graph."""

from collections.abc import Sequence

import tensorflow as tf

from siglip_tf.data.sources.paths import is_remote

# Linux lets a process map 65,530 files; each shard takes two of them, its own and its index.
MAX_MAPPED = 30_000


def can_map(paths: Sequence[str]) -> bool:
    """Whether all paths are local, and few enough, so that `MappedFiles` can take them."""
    return len(paths) <= MAX_MAPPED and not any(map(is_remote, paths))


class MappedFiles:
    """Local files in memory as the operating system pages them, read in-graph at any offset without a copy of more.

    Args:
        paths: local files, which must not shrink while they are mapped.
    """

    def __init__(self, paths: Sequence[str], sizes: Sequence[int]):
        handle = tf.raw_ops.TensorListReserve(element_shape=[-1], num_elements=len(paths), element_dtype=tf.uint8)
        with tf.device("CPU:0"):
            for number, (path, size) in enumerate(zip(paths, sizes, strict=True)):
                content = tf.zeros([0], tf.uint8)
                if size:
                    content = tf.raw_ops.ImmutableConst(
                        dtype=tf.uint8, shape=[int(size)], memory_region_name=path.removeprefix("file://")
                    )
                handle = tf.raw_ops.TensorListSetItem(input_handle=handle, index=number, item=content)
        self._handle = handle

    def content(self, number: tf.Tensor) -> tf.Tensor:
        """uint8 (bytes,): file `number`, by reference."""
        return tf.raw_ops.TensorListGetItem(
            input_handle=self._handle, index=tf.cast(number, tf.int32), element_shape=[-1], element_dtype=tf.uint8
        )


def bytes_at(content: tf.Tensor, offset: tf.Tensor, length: tf.Tensor) -> tf.Tensor:
    """string scalar: bytes of a file's content, uint8 (bytes,) as `MappedFiles` gives it or a string scalar."""
    if content.dtype == tf.string:
        return tf.strings.substr(content, offset, length)
    # A serialized uint8 tensor ends in its content.
    message = tf.io.serialize_tensor(tf.strided_slice(content, [offset], [offset + length]))
    total = tf.strings.length(message, unit="BYTE")
    length = tf.cast(length, tf.int32)
    return tf.strings.substr(message, total - length, length)


def int64s_at(content: tf.Tensor, offset: tf.Tensor, count: int) -> tf.Tensor:
    """int64 (count,): numbers of a file's content, as `bytes_at` takes it."""
    if content.dtype == tf.string:
        return tf.io.decode_raw(tf.strings.substr(content, offset, 8 * count), tf.int64)
    numbers = tf.reshape(tf.strided_slice(content, [offset], [offset + 8 * count]), [count, 8])
    return tf.bitcast(numbers, tf.int64)
