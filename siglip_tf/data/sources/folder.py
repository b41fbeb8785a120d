"""Image files with a table of captions: JSON Lines, CSV, TSV or Parquet; or one subfolder a class."""

import csv
import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from siglip_tf.data.sources.base import Source, fingerprint_of
from siglip_tf.data.sources.paths import join, open_binary

_TABLES = (".jsonl", ".csv", ".tsv", ".parquet")
_IMAGE_COLUMNS = ("image", "file_name", "filepath", "path", "filename")
_CAPTION_COLUMNS = ("captions", "caption", "text", "txt", "title")
_IMAGE_FILES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp")
_SPLIT_PARTS = {"train": (0, 90), "validation": (90, 95), "test": (95, 100)}


class FolderSource(Source):
    """Image files of a folder, with captions from a table in it or from the names of its subfolders.

    The table has a row for each pair or image: a column "image" (or "file_name", "filepath", "path"), relative to the
    table's folder; "caption" or "captions" (a list, in CSV as JSON), and perhaps "label" (an integer or a class name),
    "language" and "split". Rows of the same image become one record with several captions. Without a table each
    subfolder is a class whose name is the caption.

    Args:
        folder: the folder, or the table's path.
        split: "train", "validation", "test", or whatever the "split" column holds. Without that column the split is
            made by a hash of the image's name: 90, 5 and 5 in a hundred. None takes all rows.
        image_column, caption_column: names of the columns, where they differ from those above.
        template: caption of an image that has a class name and no caption, with `{}` for the name.

    Attributes:
        class_names: names of the labels, where labels are given as names; else None.

    Raises:
        ValueError: no table and no subfolders with images, a row or column that is missing, or an unknown split.
    """

    def __init__(
        self,
        folder: str,
        *,
        split: str | None = None,
        image_column: str | None = None,
        caption_column: str | None = None,
        template: str = "{}",
    ):
        folder = str(folder)
        table = folder if folder.endswith(_TABLES) else _find_table(folder)
        root = table.rpartition("/")[0] if table else folder
        rows = list(_rows(table)) if table else list(_classes(folder))
        if not rows:
            raise ValueError(f"{table or folder} holds no rows.")
        image_column = _column(rows[0], image_column, _IMAGE_COLUMNS, table or folder)
        if caption_column is not None:
            _column(rows[0], caption_column, (), table or folder)
        else:
            caption_column = next((name for name in _CAPTION_COLUMNS if name in rows[0]), None)
        if caption_column is None and "label" not in rows[0]:
            _column(rows[0], None, _CAPTION_COLUMNS, table or folder)
        records = _grouped(rows, image_column, caption_column)
        # Before the split, so that a label means the same in each.
        self.class_names = _number_labels(records, template)
        if split is not None:
            records = _of_split(records, split, table or folder)
        self.name = (table or folder) + (f" ({split})" if split else "")
        self.size = len(records)
        contents = [(r["image"], r["captions"], r["label"]) for r in records]
        self.fingerprint = fingerprint_of("folder", map(repr, contents))
        self._paths = [r["image"] if "://" in r["image"] or r["image"][0] == "/" else join(root, r["image"])
                       for r in records]  # fmt: skip
        self._images = tf.constant(self._paths)
        self._ids = tf.constant([record["image"] for record in records])
        self._labels = tf.constant([-1 if r["label"] is None else r["label"] for r in records], tf.int32)
        counts = [len(record["captions"]) for record in records]
        self._starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        pairs = [pair for record in records for pair in record["captions"]]
        # Lone surrogates of JSON escapes stay invalid, to be counted as such.
        self._captions = tf.constant([text.encode(errors="surrogatepass") for text, _ in pairs], tf.string)
        self._languages = tf.constant([language for _, language in pairs], tf.string)
        self.languages = sorted({language for _, language in pairs if language})
        self._has_labels = any(record["label"] is not None for record in records)

    def read(self, index: tf.Tensor) -> dict[str, tf.Tensor]:
        """One raw example, in-graph."""
        begin, end = tf.gather(self._starts, index), tf.gather(self._starts, index + 1)
        example = {
            "image": tf.io.read_file(tf.gather(self._images, index)),
            "captions": self._captions[begin:end],
            "id": tf.gather(self._ids, index),
        }
        if self._has_labels:
            example["label"] = tf.gather(self._labels, index)
        if self.languages:
            example["language"] = self._languages[begin:end]
        return example

    def fetch(self, index: int) -> dict[str, Any]:
        """As `Source.fetch`; a file that is not there is an empty image."""
        try:
            return super().fetch(index)
        except tf.errors.NotFoundError:
            captions = self._captions[self._starts[index] : self._starts[index + 1]].numpy()
            return {"image": b"", "captions": captions, "id": self._ids[index].numpy()}

    def locate(self, index: int) -> tuple[str, int]:
        """The image file, and 0."""
        return self._paths[index], 0


def _find_table(folder: str) -> str | None:
    if not tf.io.gfile.isdir(folder):
        raise ValueError(f"Expected a folder of images or a table ({', '.join(_TABLES)}). Received: {folder!r}")
    tables = sorted(path for suffix in _TABLES for path in tf.io.gfile.glob(join(folder, "*" + suffix)))
    if len(tables) > 1:
        raise ValueError(f"{folder} holds several tables: name one of {tables}.")
    return tables[0] if tables else None


def _rows(table: str) -> Iterator[dict[str, Any]]:
    if table.endswith(".parquet"):
        import pyarrow.parquet

        with open_binary(table) as file:
            yield from pyarrow.parquet.read_table(file).to_pylist()
        return
    with tf.io.gfile.GFile(table, "rb") as file:
        try:
            # Not str.splitlines: captions may hold other line separators.
            lines = io.StringIO(file.read().decode("utf-8-sig"), newline="")
        except UnicodeDecodeError as error:
            raise ValueError(f"{table} is not UTF-8: {error}. Convert it first.") from error
    if not table.endswith(".jsonl"):
        for row in csv.DictReader(lines, delimiter="\t" if table.endswith(".tsv") else ","):
            yield {key: _listed(value) for key, value in row.items() if key is not None}
        return
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{table}, line {number}: {error}") from error
            if not isinstance(row, dict):
                raise ValueError(f"{table}, line {number}: expected an object. Received: {line.strip()[:80]}")
            yield row


def _listed(value: str | None) -> Any:
    """A CSV cell that is a JSON list of strings as that list."""
    if value and value.startswith("["):
        try:
            values = json.loads(value)
        except json.JSONDecodeError:  # a caption may begin with a bracket
            return value
        return values if isinstance(values, list) else value
    return value


def _classes(folder: str) -> Iterator[dict[str, Any]]:
    for name in sorted(tf.io.gfile.listdir(folder)):
        name = name.rstrip("/")
        if tf.io.gfile.isdir(join(folder, name)) and not name.startswith("."):
            for file in sorted(tf.io.gfile.listdir(join(folder, name))):
                if file.lower().endswith(_IMAGE_FILES):
                    yield {"image": join(name, file), "label": name}


def _column(row: Mapping[str, Any], given: str | None, known: Sequence[str], where: str) -> str:
    for name in known if given is None else [given]:
        if name in row:
            return name
    wanted = repr(given) if given is not None else f"one of {', '.join(known)}"
    raise ValueError(f"Expected a column {wanted} in {where}. Its columns: {', '.join(map(str, row))}")


def _grouped(rows: list[dict[str, Any]], image_column: str, caption_column: str | None) -> list[dict[str, Any]]:
    """One record an image, in order of first appearance: "image", "captions" [(text, language)], "label", "split"."""
    records: dict[str, dict[str, Any]] = {}
    for number, row in enumerate(rows, 1):
        image = row.get(image_column)
        if not isinstance(image, str) or not image:
            raise ValueError(f"Row {number} names no image in column {image_column!r}: {row}")
        texts = row.get(caption_column) if caption_column else None
        texts = texts if isinstance(texts, list) else [texts]
        languages = row.get("language")
        languages = languages if isinstance(languages, list) else [languages] * len(texts)
        if len(languages) != len(texts):
            raise ValueError(f"Row {number} has {len(texts)} captions and {len(languages)} languages: {row}")
        label, split = row.get("label"), row.get("split")
        record = records.setdefault(image, {"image": image, "captions": [], "label": label, "split": split})
        record["captions"] += [
            (text, str(language or ""))
            for text, language in zip(texts, languages, strict=True)
            if isinstance(text, str)
        ]
    return list(records.values())


def _of_split(records: list[dict[str, Any]], split: str, where: str) -> list[dict[str, Any]]:
    if any(record["split"] for record in records):
        known = sorted({str(record["split"]) for record in records})
        chosen = [record for record in records if str(record["split"]) == split]
    else:
        known = list(_SPLIT_PARTS)
        first, end = _SPLIT_PARTS.get(split, (0, 0))
        chosen = [record for record in records if first <= _percentile(record["image"]) < end]
    if not chosen:
        raise ValueError(f"split must be one of {known} with at least one image of {where}. Received: {split!r}")
    return chosen


def _percentile(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) % 100


def _number_labels(records: list[dict[str, Any]], template: str) -> list[str] | None:
    """Makes labels integers, or None; names of labels given as text come back sorted, and caption where none is."""
    given = {str(record["label"]) for record in records if record["label"] not in (None, "")}
    numbers = all(label.removeprefix("-").isdecimal() for label in given)
    names = None if numbers else sorted(given)
    for record in records:
        if record["label"] in (None, ""):
            record["label"] = None
        elif names is None:
            record["label"] = int(record["label"])
        else:
            name = str(record["label"])
            record["label"] = names.index(name)
            record["captions"] = record["captions"] or [(template.format(name), "")]
    return names
