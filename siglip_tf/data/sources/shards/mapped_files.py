"""Reads bytes at any offset of files, in the graph."""

from collections.abc import Sequence

import tensorflow as tf

from siglip_tf.data.sources.paths import is_remote

# Linux lets a process map 65,530 files. Each shard takes two of them: the shard and its index.
MAX_MAPPED = 30_000


def can_map(paths: Sequence[str]) -> bool:
    """Says whether all paths are local and few enough for `MappedFiles`."""
    return len(paths) <= MAX_MAPPED and not any(map(is_remote, paths))


class MappedFiles:
    """Local files mapped into memory, which the graph reads at any offset without copying the rest.

    Args:
        paths: local files, which must not shrink while they are mapped.
        sizes: their sizes in bytes.
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
        """Returns uint8 (bytes,): the content of file `number`, by reference."""
        return tf.raw_ops.TensorListGetItem(
            input_handle=self._handle, index=tf.cast(number, tf.int32), element_shape=[-1], element_dtype=tf.uint8
        )


def bytes_at(content: tf.Tensor, offset: tf.Tensor, length: tf.Tensor) -> tf.Tensor:
    """Returns bytes of a file's content as a string scalar.

    Args:
        content: uint8 (bytes,), as `MappedFiles.content` returns it, or a string scalar.
        offset: integer scalar.
        length: integer scalar.
    """
    if content.dtype == tf.string:
        return tf.strings.substr(content, offset, length)
    # A serialized uint8 tensor ends with its content.
    message = tf.io.serialize_tensor(tf.strided_slice(content, [offset], [offset + length]))
    total = tf.strings.length(message, unit="BYTE")
    length = tf.cast(length, tf.int32)
    return tf.strings.substr(message, total - length, length)


def int64s_at(content: tf.Tensor, offset: tf.Tensor, count: int) -> tf.Tensor:
    """Returns int64 (count,): numbers at an offset of a file's content, which is as in `bytes_at`."""
    if content.dtype == tf.string:
        return tf.io.decode_raw(tf.strings.substr(content, offset, 8 * count), tf.int64)
    numbers = tf.reshape(tf.strided_slice(content, [offset], [offset + 8 * count]), [count, 8])
    return tf.bitcast(numbers, tf.int64)
