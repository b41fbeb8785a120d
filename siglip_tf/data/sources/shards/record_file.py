"""Records of TFRecord files with any content, found by an index and read by TensorFlow's own record reader.

The reader checks the checksums of records. It reads local files at any offset and remote files from start to end.

Source: the TFRecord format (TensorFlow's guide "TFRecord and tf.train.Example").
"""

import io
import struct
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO

import numpy as np
import tensorflow as tf

from siglip_tf.data.order.bad_records import Cause
from siglip_tf.data.sources.base import Source, fingerprint_of
from siglip_tf.data.sources.shards.index import HEADER_BYTES, Scan, index_shards
from siglip_tf.data.sources.shards.mapped_files import MappedFiles, int64s_at
from siglip_tf.op_errors import op_errors

# A record's row holds the offset of its frame, and the cause if it is torn.
_COLUMNS = 2
_CAUSES = (None, *Cause)
_BUFFER_BYTES = 256 * 1024

Parse = Callable[[tf.Tensor], dict[str, tf.Tensor]]


class RecordFileSource(Source):
    """Records of TFRecord files.

    Args:
        paths: the files, in order.
        parse: turns a serialized record (string scalar) into a raw example, in the graph; `"id"` may be missing.
        name: the name of the source in reports.
        signature: a text that changes when `parse` changes.
        index_dir: folder for the index; by default the folder `.index` beside the files.
        random_access: True or False, or None to read local files at any record and remote files whole.
        counts: number of records in each file, if known; checked when a file is read. None looks for them beside the
            files.
        verbose: whether to show the progress of indexing.

    Raises:
        ValueError: random access to remote files was requested.
    """

    def __init__(
        self,
        paths: Sequence[str],
        parse: Parse,
        *,
        name: str,
        signature: str,
        index_dir: str | None = None,
        random_access: bool | None = None,
        counts: np.ndarray | None = None,
        verbose: bool = True,
    ):
        self._parse = parse
        self._index = index_shards(
            paths, scan_records, _COLUMNS, "tfrecord 1", index_dir, verbose, random_access=random_access, counts=counts
        )
        self._borders = self._index.borders
        self.size = int(self._borders[-1])
        self.name = name
        names = [path.rpartition("/")[2] for path in paths]
        self.fingerprint = fingerprint_of(signature, names, self._index.counts, self._index.sizes)
        self.record_bytes = self._index.record_bytes
        self._names = tf.constant(names)
        self._mapped = None
        if self._index.random_access:
            sizes = [tf.io.gfile.stat(file).length for file in self._index.files]
            self._mapped = MappedFiles(self._index.files, sizes)
        else:
            self.runs = self._borders

    def locate(self, index: int) -> tuple[str, int]:
        """Returns the file and the record's number in the file."""
        return self._index.locate(index)

    def _place(self, index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the number of a record's file, and the record's number in the file."""
        shard = tf.searchsorted(self._borders, index[None], side="right", out_type=tf.int64)[0] - 1
        return shard, index - tf.gather(self._borders, shard)

    def _row(self, shard: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
        content = self._mapped.content(shard) if self._mapped is not None else self._index.content(shard)
        return int64s_at(content, HEADER_BYTES + number * 8 * _COLUMNS, _COLUMNS)

    def _example(self, record: tf.Tensor, shard: tf.Tensor, number: tf.Tensor) -> dict[str, tf.Tensor]:
        example = self._parse(record)
        if "id" not in example:
            example["id"] = tf.strings.join([tf.gather(self._names, shard), ":", tf.strings.as_string(number)])
        return example

    def read(self, index: tf.Tensor) -> dict[str, tf.Tensor]:
        """Reads one raw example in the graph."""
        shard, number = self._place(index)
        row = self._row(shard, number)
        with tf.control_dependencies([tf.debugging.Assert(row[1] == 0, ["The shard is torn, or empty."])]):
            record = _records(tf.gather(self._index.paths, shard), row[0]).take(1).get_single_element()
        return self._example(record, shard, number)

    def read_run(self, start: tf.Tensor, count: tf.Tensor) -> tf.data.Dataset:
        """Reads neighboring records of one file in one pass. A record that cannot be read is a blank example."""
        if self._mapped is not None:
            return super().read_run(start, count)
        shard, first = self._place(start)
        path = tf.gather(self._index.paths, shard)
        if self._index.files is None:
            # Without an index, skip the records before the first, and look for a surplus record after the last.
            records = self._counted(_records(path, tf.constant(0, tf.int64)).skip(first), shard, first + count, count)
        else:
            records = _records(path, self._row(shard, first)[0]).take(count).ignore_errors()
        # The reader stops at a record with a wrong checksum. The records after it are read one by one.
        padded = records.concatenate(tf.data.Dataset.from_tensors("").repeat(count)).take(count)

        def alone(number: tf.Tensor) -> tf.Tensor:
            row = self._row(shard, number)
            tried = _records(path, row[0]).take(tf.cast(row[1] == 0, tf.int64)).ignore_errors()
            return tried.concatenate(tf.data.Dataset.from_tensors("")).take(1).get_single_element()

        def example(number: tf.Tensor, record: tf.Tensor) -> dict[str, tf.Tensor]:
            record = tf.cond(tf.strings.length(record) > 0, lambda: record, lambda: alone(number))
            return self._example(record, shard, number)

        return tf.data.Dataset.zip(tf.data.Dataset.range(first, first + count), padded).map(example)

    def _counted(self, records: tf.data.Dataset, shard: tf.Tensor, end: tf.Tensor, count: tf.Tensor) -> tf.data.Dataset:
        """Returns `count` records. A file's last record becomes blank if the file holds more records than its count."""
        blank = tf.data.Dataset.from_tensors(tf.constant("")).repeat(count + 1)
        found = records.ignore_errors().concatenate(blank).take(count + 1).batch(count + 1).get_single_element()
        surplus = (end == tf.gather(self._index.counts, shard)) & (tf.strings.length(found[-1]) > 0)
        last = tf.where(surplus, "", found[-2])
        return tf.data.Dataset.from_tensor_slices(tf.concat([found[:-2], last[None]], 0))

    def fetch(self, index: int) -> dict[str, Any]:
        """Reads one raw example outside the graph. A torn record has a cause."""
        row, _, problem = self._index.row(index)
        if row[1]:
            cause = _CAUSES[row[1]].value.encode()
            captions = np.zeros([0], object)
            return {"image": b"", "captions": captions, "id": b"", "cause": cause, "detail": problem.encode()}
        with op_errors():
            shard, number = self._place(tf.constant(index, tf.int64))
            record = _records(tf.gather(self._index.paths, shard), tf.constant(row[0])).take(1).get_single_element()
            return {key: value.numpy() for key, value in self._example(record, shard, number).items()}


def _records(path: tf.Tensor, offset: tf.Tensor) -> tf.data.Dataset:
    """Reads the records of a file from a byte offset on, which `tf.data.TFRecordDataset` cannot do but its op can.

    Use it only inside another data set's function: TensorFlow 2.21 cannot serialize the op with offsets at the top
    level.
    """
    variant = tf.raw_ops.TFRecordDatasetV2(
        filenames=path[None], compression_type="", buffer_size=_BUFFER_BYTES, byte_offsets=offset[None]
    )
    return tf.data.experimental.from_variant(variant, tf.TensorSpec([], tf.string))


def scan_records(file: BinaryIO) -> Scan:
    """Finds where each record's frame begins. An empty or torn file gets a last row with the cause."""
    rows = []
    size = file.seek(0, io.SEEK_END)
    offset = 0
    while offset < size:
        file.seek(offset)
        header = file.read(12)
        end = offset + 16 + struct.unpack("<Q", header[:8])[0] if len(header) == 12 else size + 1
        if end > size or _masked_crc32c(header[:8]) != struct.unpack("<I", header[8:])[0]:
            rows.append((offset, _CAUSES.index(Cause.TORN_SHARD)))
            break
        rows.append((offset, 0))
        offset = end
    if not rows:
        rows.append((0, _CAUSES.index(Cause.EMPTY_SHARD)))
    return Scan(np.array(rows, np.int64))


def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


_CRC_TABLE = _crc_table()


def _masked_crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC_TABLE[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
