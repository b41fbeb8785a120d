"""TFRecord shards of `tf.train.Example`s, as img2dataset writes them or with features named by the user.

Records are found by an index and read by TensorFlow's own record reader, which checks their checksums: at any offset
of local shards, from end to end of remote ones.

Source: img2dataset's `tfrecord` output (features "key", "jpg", "txt"); the TFRecord format (TensorFlow's guide
"TFRecord and tf.train.Example").
"""

import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

from siglip_tf.data.order.bad_records import Cause
from siglip_tf.data.sources.base import Source, fingerprint_of
from siglip_tf.data.sources.paths import find_shards
from siglip_tf.data.sources.shard_index import HEADER_BYTES, MappedFiles, Scan, can_map, index_shards, int64s_at

# A record's row: where its frame begins, and its cause if it is torn.
_COLUMNS = 2
_CAUSES = (None, *Cause)
_BUFFER_BYTES = 256 * 1024
_IMAGES = ("jpg", "image", "image/encoded", "png", "webp", "jpeg")
_CAPTIONS = ("txt", "caption", "captions", "text", "image/caption", "image/captions")
_IDS = ("key", "id", "image/id", "image/key", "__key__")

Parse = Callable[[tf.Tensor], dict[str, tf.Tensor]]


class RecordFileSource(Source):
    """Records of TFRecord files, whatever they hold.

    Args:
        paths: the files, in order.
        parse: a serialised record (string scalar) to a raw example, in-graph; `"id"` may be missing.
        name: what reports call the source.
        signature: changes with what `parse` does.
        index_dir: where the index is kept; a folder `.index` beside the shards by default.
        random_access: None reads local files at any record, remote ones by whole files; True or False insists.

    Raises:
        ValueError: random access to remote files.
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
        verbose: bool = True,
    ):
        if random_access and not can_map(paths):
            raise ValueError(f"Only local shards can be read at random. Received: {paths[0]!r}")
        self._parse = parse
        self._index = index_shards(paths, scan_records, _COLUMNS, "tfrecord 1", index_dir, verbose)
        self._borders = self._index.borders
        self.size = int(self._borders[-1])
        self.name = name
        self.fingerprint = fingerprint_of(
            signature, [path.rpartition("/")[2] for path in paths], self._index.counts, self._index.sizes
        )
        self.record_bytes = float(self._index.sizes.sum()) / self.size
        self._mapped = None
        if random_access or (random_access is None and can_map(paths)):
            sizes = [tf.io.gfile.stat(file).length for file in self._index.files]
            self._mapped = MappedFiles(self._index.files, sizes)
        else:
            self.runs = self._borders

    def locate(self, index: int) -> tuple[str, int]:
        """The file and the record's number in it."""
        return self._index.locate(index)

    def _row(self, index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """A record's file, number in it, and row."""
        shard = tf.searchsorted(self._borders, index[None], side="right", out_type=tf.int64)[0] - 1
        number = index - tf.gather(self._borders, shard)
        if self._mapped is None:
            content = tf.io.read_file(tf.gather(self._index.files, shard))
        else:
            content = self._mapped.content(shard)
        return shard, number, int64s_at(content, HEADER_BYTES + number * 8 * _COLUMNS, _COLUMNS)

    def _example(self, record: tf.Tensor, shard: tf.Tensor, number: tf.Tensor) -> dict[str, tf.Tensor]:
        example = self._parse(record)
        if "id" not in example:
            name = tf.gather([path.rpartition("/")[2] for path in self._index.shards], shard)
            example["id"] = tf.strings.join([name, ":", tf.strings.as_string(number)])
        return example

    def read(self, index: tf.Tensor) -> dict[str, tf.Tensor]:
        """One raw example, in-graph."""
        shard, number, row = self._row(index)
        with tf.control_dependencies([tf.debugging.Assert(row[1] == 0, ["The shard is torn, or empty."])]):
            record = _records(tf.gather(self._index.shards, shard), row[0]).take(1).get_single_element()
        return self._example(record, shard, number)

    def read_run(self, start: tf.Tensor, count: tf.Tensor) -> tf.data.Dataset:
        """Neighbouring records of one file, in one pass; a blank example for each that cannot be read."""
        if self._mapped is not None:
            return super().read_run(start, count)
        shard, first, row = self._row(start)
        path = tf.gather(self._index.shards, shard)
        index = tf.io.read_file(tf.gather(self._index.files, shard))
        records = _records(path, row[0]).take(count).ignore_errors()
        # The reader ends at a record whose checksum is wrong; what follows has an offset of its own.
        padded = records.concatenate(tf.data.Dataset.from_tensors("").repeat(count)).take(count)

        def alone(number: tf.Tensor) -> tf.Tensor:
            offset = int64s_at(index, HEADER_BYTES + number * 8 * _COLUMNS, _COLUMNS)[0]
            tried = _records(path, offset).take(1).ignore_errors()
            return tried.concatenate(tf.data.Dataset.from_tensors("")).take(1).get_single_element()

        def example(number: tf.Tensor, record: tf.Tensor) -> dict[str, tf.Tensor]:
            record = tf.cond(tf.strings.length(record) > 0, lambda: record, lambda: alone(number))
            return self._example(record, shard, number)

        return tf.data.Dataset.zip(tf.data.Dataset.range(first, first + count), padded).map(example)

    def fetch(self, index: int) -> dict[str, Any]:
        """One raw example outside the graph; a torn one holds its cause."""
        row, _ = self._index.row(index)
        if row[1]:
            cause = _CAUSES[row[1]].value.encode()
            return {"image": b"", "captions": np.zeros([0], object), "id": b"", "cause": cause}
        shard, number = self.locate(index)
        record = _records(tf.constant(shard), tf.constant(row[0])).take(1).get_single_element()
        example = self._example(record, tf.constant(self._index.shards.index(shard)), tf.constant(number))
        return {key: value.numpy() for key, value in example.items()}


class TFRecordSource(RecordFileSource):
    """TFRecord shards of `tf.train.Example`s with an encoded image and one or several captions.

    Args:
        shards: path, glob, brace range, folder, or a list of these.
        image, caption, id, label, language: names of the features; looked for among img2dataset's and other common
            names where None. A caption feature may hold several; `language` then holds as many.
        index_dir, random_access, verbose: as `RecordFileSource`'s.

    Raises:
        ValueError: no shards, compressed ones, or a feature that the first record lacks.
    """

    def __init__(
        self,
        shards: str | Sequence[str],
        *,
        image: str | None = None,
        caption: str | None = None,
        id: str | None = None,
        label: str | None = None,
        language: str | None = None,
        index_dir: str | None = None,
        random_access: bool | None = None,
        verbose: bool = True,
    ):
        paths = find_shards(shards, ".tfrecord")
        for path in paths:
            if path.endswith((".gz", ".zlib")):
                raise ValueError(f"{path} is compressed: its records cannot be addressed. Decompress it first.")
        features = _features_of_first_record(paths)
        self.features = {
            "image": _choose("image", image, _IMAGES, features),
            "captions": _choose("caption", caption, _CAPTIONS, features),
        }
        for field, given, known in (("id", id, _IDS), ("label", label, ("label",)), ("language", language, ())):
            if given is not None or features.keys() & {*known}:
                self.features[field] = _choose(field, given, known, features)
        kinds = {field: features[name] for field, name in self.features.items()}
        super().__init__(
            paths,
            _parser(self.features, kinds),
            name=shards if isinstance(shards, str) else f"{paths[0]} and {len(paths) - 1} more",
            signature=repr(sorted(self.features.items())),
            index_dir=index_dir,
            random_access=random_access,
            verbose=verbose,
        )


def _records(path: tf.Tensor, offset: tf.Tensor) -> tf.data.Dataset:
    """The records of a file from a byte offset on (`tf.data.TFRecordDataset` has no such argument; its op does).

    Only inside another data set's function: TensorFlow 2.21 cannot serialise the op with offsets at the top.
    """
    variant = tf.raw_ops.TFRecordDatasetV2(
        filenames=path[None], compression_type="", buffer_size=_BUFFER_BYTES, byte_offsets=offset[None]
    )
    return tf.data.experimental.from_variant(variant, tf.TensorSpec([], tf.string))


def _parser(names: dict[str, str], kinds: dict[str, str]) -> Parse:
    spec = {
        name: tf.io.RaggedFeature(tf.int64 if kinds[field] == "int64_list" else tf.string)
        for field, name in names.items()
    }

    def parse(record: tf.Tensor) -> dict[str, tf.Tensor]:
        parsed = tf.io.parse_single_example(record, spec)
        values = {field: parsed[name] for field, name in names.items()}
        example = {"image": tf.strings.reduce_join(values["image"][:1]), "captions": values["captions"]}
        if "id" in values:
            text = values["id"] if values["id"].dtype == tf.string else tf.strings.as_string(values["id"])
            example["id"] = tf.strings.reduce_join(text[:1])
        if "label" in values:
            numbers = values["label"]
            numbers = tf.strings.to_number(numbers, tf.int64) if numbers.dtype == tf.string else numbers
            example["label"] = tf.cast(tf.concat([numbers, [-1]], 0)[0], tf.int32)
        if "language" in values:
            example["language"] = values["language"]
        return example

    return parse


def _features_of_first_record(paths: Sequence[str]) -> dict[str, str]:
    for path in paths:
        for record in tf.data.TFRecordDataset(path).take(1).ignore_errors():
            try:
                features = tf.train.Example.FromString(record.numpy()).features.feature
            except DecodeError as error:
                raise ValueError(f"{path} holds no tf.train.Examples: {error}") from error
            return {name: feature.WhichOneof("kind") or "bytes_list" for name, feature in features.items()}
    raise ValueError(f"{paths[0]} holds no record that can be read. Are the shards TFRecord files, uncompressed?")


def _choose(field: str, given: str | None, known: Sequence[str], features: dict[str, str]) -> str:
    for name in known if given is None else [given]:
        if name in features:
            return name
    wanted = repr(given) if given is not None else f"one of {', '.join(known)}"
    raise ValueError(f"Expected {wanted} as the {field} feature. The first record holds {sorted(features)}.")


def scan_records(path: str) -> Scan:
    """Where each record's frame begins; a file that is empty or torn ends in a row that says so."""
    rows = []
    with tf.io.gfile.GFile(path, "rb") as file:
        size = file.size()
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
