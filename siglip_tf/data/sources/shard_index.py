"""Where each record of a shard begins: scanned once, kept in a file, read in the graph.

An index file holds little-endian int64s, a header of `_HEADER` of them and then `columns` a record, and after them
bytes that some columns point into. It is valid for a shard of the same size and time, and the same way of scanning.
"""

import concurrent.futures
import dataclasses
import hashlib
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from siglip_tf.data.sources.paths import is_remote, join
from siglip_tf.storage import write_file

_MAGIC = 0x5349474C49585F31
_HEADER = 8
HEADER_BYTES = 8 * _HEADER
_THREADS = 8


@dataclasses.dataclass(frozen=True)
class Scan:
    """What a scan of one shard found: int64 (records, columns), and bytes that columns may point into."""

    rows: np.ndarray
    blob: bytes = b""


@dataclasses.dataclass(frozen=True)
class ShardIndex:
    """The indices of a list of shards.

    Attributes:
        shards: paths of the shards.
        files: paths of their index files.
        counts: int64 (shards,), records in each.
        sizes: int64 (shards,), bytes of each shard.
        columns: columns of a record's row.
    """

    shards: list[str]
    files: list[str]
    counts: np.ndarray
    sizes: np.ndarray
    columns: int

    @property
    def borders(self) -> np.ndarray:
        """int64 (shards + 1,): each shard's first record, and the number of all."""
        return np.concatenate([[0], np.cumsum(self.counts)])

    def locate(self, index: int) -> tuple[str, int]:
        """A record's shard and its number in it."""
        shard = int(np.searchsorted(self.borders, index, side="right")) - 1
        return self.shards[shard], index - int(self.borders[shard])

    def row(self, index: int) -> tuple[np.ndarray, bytes]:
        """A record's row and the blob of its shard, read outside the graph."""
        shard = int(np.searchsorted(self.borders, index, side="right")) - 1
        with tf.io.gfile.GFile(self.files[shard], "rb") as file:
            data = file.read()
        rows = np.frombuffer(data, "<i8", int(self.counts[shard]) * self.columns, HEADER_BYTES)
        blob = data[HEADER_BYTES + rows.nbytes :]
        return rows.reshape(-1, self.columns)[index - int(self.borders[shard])], blob


def index_shards(
    shards: Sequence[str],
    scan: Callable[[str], Scan],
    columns: int,
    signature: str,
    index_dir: str | None = None,
    verbose: bool = True,
) -> ShardIndex:
    """Indexes shards, each once and for all; shards that changed are scanned again.

    Args:
        shards: paths of shards.
        scan: reads a shard and returns where its records are; called in threads.
        columns: columns of the scan's rows.
        signature: changes with whatever changes the scan's result for the same shard.
        index_dir: folder for the index files; `.index` beside each shard by default.
        verbose: shows progress on stderr where it takes more than two seconds.

    Raises:
        ValueError: the folder cannot be written.
    """
    mark = int.from_bytes(hashlib.sha256(signature.encode()).digest()[:7])
    folders = {path: index_dir or join(path.rpartition("/")[0] or ".", ".index") for path in shards}
    for folder in set(folders.values()):
        try:
            tf.io.gfile.makedirs(folder)
        except tf.errors.OpError as error:
            raise ValueError(f"Cannot write the shards' index to {folder!r}: name an index_dir. {error}") from error

    def index_one(path: str) -> tuple[str, int, int]:
        stat = tf.io.gfile.stat(path)
        name = path.rpartition("/")[2]
        if index_dir is not None:  # shards of several folders may share names
            name += "-" + hashlib.sha256(path.encode()).hexdigest()[:12]
        file = join(folders[path], name + ".index")
        expected = [_MAGIC, columns, mark, stat.length, stat.mtime_nsec]
        header = _header(file)
        if header is None or header[:5].tolist() != expected:
            header = _write(file, expected, scan(path), columns)
        return file, int(header[5]), stat.length

    files, counts, sizes = [], [], []
    begin = shown = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        for number, (file, count, size) in enumerate(pool.map(index_one, shards), 1):
            files.append(file)
            counts.append(count)
            sizes.append(size)
            now = time.monotonic()
            if verbose and (now - shown > 2 or (number == len(shards) and shown > begin)):
                shown = now
                left = (now - begin) / number * (len(shards) - number)
                print(f"Indexing shards: {number}/{len(shards)}, {left:.0f} s left", file=sys.stderr)
    return ShardIndex(list(shards), files, np.array(counts, np.int64), np.array(sizes, np.int64), columns)


def _header(file: str) -> np.ndarray | None:
    if not tf.io.gfile.exists(file):
        return None
    with tf.io.gfile.GFile(file, "rb") as stream:
        data = stream.read(HEADER_BYTES)
    return np.frombuffer(data, "<i8") if len(data) == HEADER_BYTES else None


def _write(file: str, expected: list[int], scanned: Scan, columns: int) -> np.ndarray:
    rows = np.ascontiguousarray(scanned.rows, "<i8").reshape(-1, columns)
    header = np.array([*expected, len(rows), len(scanned.blob), 0], "<i8")
    write_file(file, [header.tobytes(), rows.tobytes(), scanned.blob])
    return header


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
    # A serialised uint8 tensor ends in its content.
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


def can_map(paths: Sequence[str]) -> bool:
    """Whether all paths are local, so that `MappedFiles` can take them."""
    return not any(is_remote(path) for path in paths)
