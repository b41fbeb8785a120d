"""WebDataset tar shards, local or remote. A sample is an image with a `txt` or `json`, and optionally a `cls`.

Local shards are mapped into memory and read at any sample. Remote shards (`gs://`) are read whole, one after another in
the shuffled order of shards, and their samples are shuffled within windows of several shards.

Source: the webdataset format, https://github.com/webdataset/webdataset; img2dataset's `webdataset` output.
"""

import io
import json
from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np
import tensorflow as tf

from siglip_tf.data.images.other_formats import described
from siglip_tf.data.order.bad_records import Cause
from siglip_tf.data.sources.base import Source, fingerprint_of
from siglip_tf.data.sources.groups import NO_GROUP, group_number
from siglip_tf.data.sources.paths import find_shards, shards_name
from siglip_tf.data.sources.shards.index import HEADER_BYTES, Scan, index_shards
from siglip_tf.data.sources.shards.mapped_files import MappedFiles, bytes_at, int64s_at
from siglip_tf.data.sources.shards.tar_members import IMAGES, Record, grouped, read_members, records_of

_CAUSES = (None, *Cause)
# A row holds offset and length of image and text in the shard, and of id, captions, and problem in the index's blob;
# the label; the cause; and the group, if there is a key for groups.
_COLUMNS = 12
_NO_LABEL = -1
_HEAD = 512  # This many bytes tell what a file is, if it is not a tar archive.


class TarSource(Source):
    """Samples of tar shards as the webdataset library and img2dataset write them.

    A sample's caption is its `txt`, or else "captions" or "caption" of its `json`. `tar_members` says which members
    make a sample. A torn or empty shard counts as one more bad record, in addition to the samples that can be read.

    Args:
        shards: path, glob, brace range, folder, or a list of these, on any file system that TensorFlow reads.
        image_members: extensions of the members that hold the picture, the best first. The default is those of images.
        caption_keys: where the captions are: fields of the `json` that hold a caption or a list of captions, or members
            (names that end in "txt"). They are used even if there is a `txt`.
        language_key: field of the `json` with the captions' language, or with a list of languages, one per caption.
        label_key: field of the `json` that holds an integer label. Without it, `cls` members are the labels.
        group_key: field of the `json` that holds the group, a whole number or a text.
        index_dir: folder for the index of the shards; by default the folder `.index` beside them.
        random_access: True or False, or None to read local shards at any sample and remote shards whole.
        suffix: the suffix of the shards in a folder, if it is not ".tar".
        verbose: whether to show the progress of indexing.

    Raises:
        ValueError: there are no shards, or random access to remote shards was requested.
    """

    def __init__(
        self,
        shards: str | Sequence[str],
        *,
        image_members: Sequence[str] = (),
        caption_keys: Sequence[str] = (),
        language_key: str | None = None,
        label_key: str | None = None,
        group_key: str | None = None,
        index_dir: str | None = None,
        random_access: bool | None = None,
        suffix: str | None = None,
        verbose: bool = True,
    ):
        paths = find_shards(shards, suffix or ".tar")
        self._images = tuple(name.lower().removeprefix(".") for name in image_members) or IMAGES
        members = [key for key in caption_keys if key.lower().removeprefix(".").endswith("txt")]
        self._texts = tuple(key.lower().removeprefix(".") for key in members) or ("txt",)
        self._caption_keys = tuple(key for key in caption_keys if key not in members)
        self._language_key = language_key
        self._label_key = label_key
        self._group_key = group_key
        self.has_groups = group_key is not None
        self._columns = _COLUMNS + self.has_groups
        signature = repr(("tar", 1, self._caption_keys, language_key, label_key))
        if image_members or members:
            signature += repr((self._images, self._texts))
        if group_key is not None:
            signature += repr(("group", group_key))
        self._index = index_shards(
            paths, self._scan, self._columns, "2" + signature, index_dir, verbose, random_access=random_access
        )
        self._borders = self._index.borders
        self.size = int(self._borders[-1])
        self.name = shards_name(shards, paths)
        self.fingerprint = fingerprint_of(
            signature, [path.rpartition("/")[2] for path in paths], self._index.counts, self._index.sizes
        )
        self.record_bytes = self._index.record_bytes
        self.notes = (
            f"images from {', '.join(self._images)}; captions from "
            f"{', '.join((*(members or ()), *self._caption_keys)) or 'txt, or captions or caption of json'}",
        )
        self._mapped = None
        if self._index.random_access:
            index_sizes = [tf.io.gfile.stat(file).length for file in self._index.files]
            self._mapped = MappedFiles(paths, self._index.sizes.tolist()), MappedFiles(self._index.files, index_sizes)
        else:
            self.runs = self._borders

    def locate(self, index: int) -> tuple[str, int]:
        """Returns the shard and the sample's number in the shard."""
        return self._index.locate(index)

    def read(self, index: tf.Tensor) -> dict[str, tf.Tensor]:
        """Reads one raw example in the graph. For a remote shard, it costs a whole shard; see `read_run`."""
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
        """Reads neighboring samples of one shard in the graph. A shard that is not mapped is read whole."""
        if self._mapped is not None:
            return super().read_run(start, count)
        shard = tf.searchsorted(self._borders, start[None], side="right", out_type=tf.int64)[0] - 1
        content = tf.io.read_file(tf.gather(self._index.paths, shard))
        index = self._index.content(shard, content)
        records = tf.gather(self._index.counts, shard)
        first = start - tf.gather(self._borders, shard)
        return tf.data.Dataset.range(first, first + count).map(
            lambda number: self._example(content, index, number, records)
        )

    def fetch(self, index: int) -> dict[str, Any]:
        """Reads one raw example outside the graph, by ranges of the shard."""
        row, blob, problem = self._index.row(index)
        with tf.io.gfile.GFile(self._index.locate(index)[0], "rb") as shard:

            def member(offset: int, length: int) -> bytes:
                shard.seek(int(offset))
                return shard.read(int(length)) if length else b""

            image, text = member(*row[0:2]), member(*row[2:4])
        values = tf.io.parse_tensor(blob[row[6] : row[6] + row[7]], tf.string).numpy() if row[7] else np.zeros([0, 2])
        captions = [*values[:, 0]] if row[7] else [text]
        cause = _CAUSES[row[11]]
        return {
            "image": image,
            "captions": np.array(captions, object),
            "language": np.array([*values[:, 1]] if row[7] else [b""], object),
            "id": blob[row[4] : row[4] + row[5]],
            "label": np.int32(row[10]),
            "cause": b"" if cause is None else cause.value.encode(),
            "detail": blob[row[8] : row[8] + row[9]] or problem.encode(),
            **({"group": np.int64(row[12])} if self.has_groups else {}),
        }

    def _example(
        self, content: tf.Tensor, index: tf.Tensor, number: tf.Tensor, records: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        row = int64s_at(index, HEADER_BYTES + number * 8 * self._columns, self._columns)
        blob = HEADER_BYTES + records * 8 * self._columns
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
            "label": tf.cast(row[10], tf.int32),
            "cause": tf.gather(["", *Cause], row[11]),
            **({"group": row[12]} if self.has_groups else {}),
        }

    def _scan(self, file: BinaryIO) -> Scan:
        members, torn = read_members(file)
        size = file.seek(0, io.SEEK_END)
        samples = grouped(members)
        blob = io.BytesIO()
        rows = []
        for number, (key, sample) in enumerate(samples, 1):
            if torn and number == len(samples) and not self._is_whole(sample, size):
                break
            rows += [self._row(record, file, blob) for record in records_of(key, sample, self._images)]
        if torn or not rows:
            cause = Cause.TORN_SHARD if torn else Cause.EMPTY_SHARD
            problem = (0, 0)
            if torn and not members:
                file.seek(0)
                text = f"it is not a tar archive, but {described(file.read(_HEAD))}".encode()
                problem = blob.tell(), len(text)
                blob.write(text)
            rows.append([0] * 8 + [*problem, _NO_LABEL, _CAUSES.index(cause)] + [NO_GROUP] * self.has_groups)
        return Scan(np.array(rows, np.int64).reshape(-1, self._columns), blob.getvalue())

    def _is_whole(self, sample: dict[str, tuple[int, int]], size: int) -> bool:
        """Says whether the last sample of a torn shard has its picture, its text, and all of their bytes."""
        whole = all(offset + length <= size for offset, length in sample.values())
        return whole and bool({*self._texts} & sample.keys()) and bool({*self._images} & sample.keys())

    def _row(self, record: Record, file: BinaryIO, blob: io.BytesIO) -> list[int]:
        def add(value: bytes) -> tuple[int, int]:
            blob.write(value)
            return blob.tell() - len(value), len(value)

        def content(extension: str) -> bytes:
            offset, length = members[extension]
            file.seek(offset)
            return file.read(length)

        members = record.members
        text = next((members[name] for name in self._texts if name in members), None)
        label, captions, group = _NO_LABEL, (0, 0), None
        if "json" in members and (self._caption_keys or self._label_key or self._group_key or text is None):
            fields = _json(content("json"))
            keys = self._caption_keys or (() if text is not None else ("captions", "caption"))
            pairs = _captions(fields, keys, self._language_key)
            if pairs:
                captions = add(tf.io.serialize_tensor(tf.constant(pairs)).numpy())
            label = _integer(fields.get(self._label_key))
            group = fields.get(self._group_key)
        if "cls" in members and self._label_key is None:
            label = _integer(content("cls"))
        key = add(record.key.encode(errors="surrogateescape"))
        cause = _CAUSES.index(Cause.MISSING_IMAGE if record.problem else None)
        problem = add(record.problem.encode(errors="replace")) if record.problem else (0, 0)
        row = [*record.image, *(text or (0, 0)), *key, *captions, *problem, label, cause]
        if self.has_groups:
            row.append(group_number(group, f"{self._group_key!r} of the json of sample {record.key!r}"))
        return row


def _json(data: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError):  # The record will be reported as one without captions.
        return {}
    return fields if isinstance(fields, dict) else {}


def _captions(fields: dict[str, Any], keys: Sequence[str], language_key: str | None) -> list[tuple[bytes, bytes]]:
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
                # Lone surrogates of JSON escapes stay invalid, so that the record counts as broken.
                pairs.append((value.encode(errors="surrogatepass"), str(language or "").encode(errors="surrogatepass")))
    return pairs


def _integer(value: Any) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        return _NO_LABEL
    return number if abs(number) < 1 << 31 else _NO_LABEL
