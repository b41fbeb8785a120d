"""WebDataset tar shards (an image, `txt` or `json` and perhaps `cls` a sample), local or remote.

Local shards are mapped into memory and read at any sample; remote ones (`gs://`) are read whole, one after another in
the shuffled order of shards, and their samples are shuffled within windows of several shards.

Source: the webdataset format, https://github.com/webdataset/webdataset (grouping of members by key); img2dataset's
`webdataset` output.
"""

import io
import json
import tarfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from siglip_tf.data.order.bad_records import Cause
from siglip_tf.data.sources.base import Source, fingerprint_of
from siglip_tf.data.sources.paths import find_shards
from siglip_tf.data.sources.shard_index import (
    HEADER_BYTES,
    MappedFiles,
    Scan,
    bytes_at,
    can_map,
    index_shards,
    int64s_at,
)

_IMAGES = ("jpg", "jpeg", "png", "webp", "gif", "bmp")
_CAUSES = (None, *Cause)
# A row: offset and length of image and text in the shard, of id and captions in the index's blob; label; cause.
_COLUMNS = 10
_NO_LABEL = -1


class TarSource(Source):
    """Samples of tar shards as the webdataset library and img2dataset write them.

    A sample's captions are its `txt`; without one, "captions" or "caption" of its `json`. A shard that is torn or
    empty counts as one bad record more, beside the samples that can be read.

    Args:
        shards: path, glob, brace range, folder, or a list of these; `gs://` and whatever else TensorFlow reads.
        caption_keys: fields of the `json` that hold a caption or a list of captions; takes them even if there is a
            `txt`.
        language_key: field of the `json` with the captions' language, or a list beside a list of captions.
        label_key: field of the `json` that holds an integer label; `cls` members are labels without it.
        index_dir: where the index of the shards is kept; a folder `.index` beside them by default.
        random_access: None reads local shards at any sample, remote ones whole; True or False insists.

    Raises:
        ValueError: no shards, or random access to remote ones.
    """

    def __init__(
        self,
        shards: str | Sequence[str],
        *,
        caption_keys: Sequence[str] = (),
        language_key: str | None = None,
        label_key: str | None = None,
        index_dir: str | None = None,
        random_access: bool | None = None,
        verbose: bool = True,
    ):
        paths = find_shards(shards, ".tar")
        if random_access and not can_map(paths):
            raise ValueError(f"Only local shards can be read at random. Received: {paths[0]!r}")
        self._caption_keys = tuple(caption_keys)
        self._language_key = language_key
        self._label_key = label_key
        signature = repr(("tar", 1, self._caption_keys, language_key, label_key))
        self._index = index_shards(paths, self._scan, _COLUMNS, signature, index_dir, verbose)
        self._borders = self._index.borders
        self.size = int(self._borders[-1])
        self.name = shards if isinstance(shards, str) else f"{paths[0]} and {len(paths) - 1} more"
        self.fingerprint = fingerprint_of(
            signature, [path.rpartition("/")[2] for path in paths], self._index.counts, self._index.sizes
        )
        self.record_bytes = float(self._index.sizes.sum()) / self.size
        self._mapped = None
        if random_access or (random_access is None and can_map(paths)):
            index_sizes = [tf.io.gfile.stat(file).length for file in self._index.files]
            self._mapped = MappedFiles(paths, self._index.sizes), MappedFiles(self._index.files, index_sizes)
        else:
            self.runs = self._borders

    def locate(self, index: int) -> tuple[str, int]:
        """The shard and the sample's number in it."""
        return self._index.locate(index)

    def read(self, index: tf.Tensor) -> dict[str, tf.Tensor]:
        """One raw example, in-graph; of remote shards at the cost of a whole shard: see `read_run`."""
        if self._mapped is None:
            return self.read_run(index, tf.constant(1, tf.int64)).get_single_element()
        shard = tf.searchsorted(self._borders, index[None], side="right", out_type=tf.int64)[0] - 1
        shards, indices = self._mapped
        return self._example(
            shards.content(shard),
            indices.content(shard),
            index - tf.gather(self._borders, shard),
            tf.gather(self._index.counts, shard),
        )

    def read_run(self, start: tf.Tensor, count: tf.Tensor) -> tf.data.Dataset:
        """Samples of one shard, which is read whole where it is not mapped."""
        if self._mapped is not None:
            return super().read_run(start, count)
        shard = tf.searchsorted(self._borders, start[None], side="right", out_type=tf.int64)[0] - 1
        content = tf.io.read_file(tf.gather(self._index.shards, shard))
        index = tf.io.read_file(tf.gather(self._index.files, shard))
        records = tf.gather(self._index.counts, shard)
        first = start - tf.gather(self._borders, shard)
        return tf.data.Dataset.range(first, first + count).map(
            lambda number: self._example(content, index, number, records)
        )

    def fetch(self, index: int) -> dict[str, Any]:
        """One raw example outside the graph, by ranges of the shard."""
        row, blob = self._index.row(index)
        with tf.io.gfile.GFile(self._index.locate(index)[0], "rb") as shard:

            def member(offset: int, length: int) -> bytes:
                shard.seek(int(offset))
                return shard.read(int(length)) if length else b""

            image, text = member(*row[0:2]), member(*row[2:4])
        values = tf.io.parse_tensor(blob[row[6] : row[6] + row[7]], tf.string).numpy() if row[7] else np.zeros([0, 2])
        captions = [*values[:, 0]] if row[7] else [text]
        cause = _CAUSES[row[9]]
        return {
            "image": image,
            "captions": np.array(captions, object),
            "language": np.array([*values[:, 1]] if row[7] else [b""], object),
            "id": blob[row[4] : row[4] + row[5]],
            "label": np.int32(row[8]),
            "cause": b"" if cause is None else cause.value.encode(),
        }

    def _example(
        self, content: tf.Tensor, index: tf.Tensor, number: tf.Tensor, records: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        row = int64s_at(index, HEADER_BYTES + number * 8 * _COLUMNS, _COLUMNS)
        blob = HEADER_BYTES + records * 8 * _COLUMNS
        values = tf.cond(
            row[7] > 0,
            lambda: tf.io.parse_tensor(bytes_at(index, blob + row[6], row[7]), tf.string),
            lambda: tf.stack([bytes_at(content, row[2], row[3]), ""])[None],
        )
        values = tf.ensure_shape(values, [None, 2])
        return {
            "image": bytes_at(content, row[0], row[1]),
            "captions": values[:, 0],
            "language": values[:, 1],
            "id": bytes_at(index, blob + row[4], row[5]),
            "label": tf.cast(row[8], tf.int32),
            "cause": tf.gather(["", *Cause], row[9]),
        }

    def _scan(self, path: str) -> Scan:
        rows, blob = [], io.BytesIO()
        with tf.io.gfile.GFile(path, "rb") as file:
            for sample in _samples(file):
                rows.append(self._row(sample, file, blob))
        return Scan(np.array(rows, np.int64).reshape(-1, _COLUMNS), blob.getvalue())

    def _row(self, sample: dict[str, Any], file: Any, blob: io.BytesIO) -> list[int]:
        def add(value: bytes) -> tuple[int, int]:
            blob.write(value)
            return blob.tell() - len(value), len(value)

        def content(extension: str) -> bytes:
            offset, length = sample[extension]
            file.seek(offset)
            return file.read(length)

        label, captions = _NO_LABEL, (0, 0)
        if "json" in sample and (self._caption_keys or self._label_key or "txt" not in sample):
            fields = _json(content("json"))
            keys = self._caption_keys or (() if "txt" in sample else ("captions", "caption"))
            pairs = _captions(fields, keys, self._language_key)
            if pairs:
                captions = add(tf.io.serialize_tensor(tf.constant(pairs)).numpy())
            label = _integer(fields.get(self._label_key))
        if "cls" in sample and self._label_key is None:
            label = _integer(content("cls"))
        image = next((sample[extension] for extension in _IMAGES if extension in sample), (0, 0))
        cause = _CAUSES.index(sample.get("cause"))
        return [*image, *sample.get("txt", (0, 0)), *add(sample["key"].encode()), *captions, label, cause]


def _samples(file: Any) -> list[dict[str, Any]]:
    """Members grouped by key: `{"key", extension: (offset, length)}`; what is wrong with a shard as a last sample."""
    samples: list[dict[str, Any]] = []
    torn = False
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                folder, slash, name = member.name.rpartition("/")
                stem, dot, extension = name.partition(".")
                if not member.isfile() or not stem or not dot or (stem.startswith("__") and stem.endswith("__")):
                    continue
                key = folder + slash + stem
                if not samples or samples[-1]["key"] != key:
                    samples.append({"key": key})
                for field in dict.fromkeys((extension.lower(), extension.lower().rpartition(".")[2])):
                    samples[-1].setdefault(field, (member.offset_data, member.size))
            file.seek(tar.offset)
            # A whole archive ends in blocks of zeros; reading stopped at something else where it is torn.
            torn = file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE)
    except (tarfile.TarError, tf.errors.OutOfRangeError):
        file.seek(0)
        torn = bool(file.read(1))
    if torn:
        # The sample under way lacks members, or the bytes of its last one.
        under_way = samples[-1] if samples else {}
        size = file.size()
        whole = all(sum(place) <= size for place in under_way.values() if isinstance(place, tuple))
        if samples and not (whole and "txt" in under_way and under_way.keys() & {*_IMAGES}):
            samples.pop()
        samples.append({"key": "", "cause": Cause.TORN_SHARD})
    elif not samples:
        samples.append({"key": "", "cause": Cause.EMPTY_SHARD})
    return samples


def _json(data: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(data)
    except ValueError:  # its captions are missing, and the record is reported as such
        return {}
    return fields if isinstance(fields, dict) else {}


def _captions(fields: dict[str, Any], keys: Sequence[str], language_key: str | None) -> list[tuple[str, str]]:
    pairs = []
    for key in keys:
        values = fields.get(key)
        values = values if isinstance(values, list) else [values]
        languages = fields.get(language_key) if language_key else ""
        languages = languages if isinstance(languages, list) else [languages] * len(values)
        if len(languages) != len(values):
            languages = [""] * len(values)
        for value, language in zip(values, languages, strict=True):
            if isinstance(value, str):
                # Lone surrogates of JSON escapes stay invalid, to be counted as such.
                pairs.append((value.encode(errors="surrogatepass"), str(language or "").encode()))
    return pairs


def _integer(value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        return _NO_LABEL
