"""Parquet files whose rows hold encoded images and captions, as img2dataset's `parquet` output.

A row group is read at a time, by pyarrow: a call into Python a row group, none a record. Tables that only name image
files are `FolderSource`'s.

Source: img2dataset's `parquet` output (columns "key", "jpg", "caption"); Hugging Face's image columns
(`{"bytes", "path"}`).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from siglip_tf.data.order.bad_records import Cause
from siglip_tf.data.sources.base import Source, fingerprint_of
from siglip_tf.data.sources.paths import find_shards, open_binary

_COLUMNS = {
    "image": ("jpg", "image", "png", "webp", "jpeg"),
    "captions": ("captions", "caption", "txt", "text"),
    "id": ("key", "id", "__key__"),
    "label": ("label",),
    "language": ("language", "lang"),
}


class ParquetSource(Source):
    """Rows of Parquet files with an encoded image each.

    A file that cannot be opened, or holds no rows, counts as one bad record.

    Args:
        shards: path, glob, brace range, folder, or a list of these.
        columns: names of the columns by field ("image", "captions", "id", "label", "language"); looked for among
            common names where a field is not given. Captions may be a string or a list of strings.

    Raises:
        ValueError: no shards, no row that can be read, or no column for images or captions.
    """

    def __init__(self, shards: str | Sequence[str], *, columns: dict[str, str] | None = None):
        self._paths = find_shards(shards, ".parquet")
        # Of each run: file, row group, rows; a broken file is a run of one row in no group.
        self._groups: list[tuple[int, int, int]] = []
        self._causes: dict[int, Cause] = {}
        names = None
        for file, path in enumerate(self._paths):
            rows, found = _row_groups(path)
            names = names or found
            if not rows:
                self._causes[len(self._groups)] = Cause.TORN_SHARD if rows is None else Cause.EMPTY_SHARD
                self._groups.append((file, -1, 1))
            self._groups += [(file, group, count) for group, count in enumerate(rows or ())]
        if names is None:
            raise ValueError(f"{self._paths[0]} is no Parquet file that can be read, nor is any other of the shards.")
        self.columns = _choose(columns or {}, names, self._paths[0])
        counts = np.array([count for _, _, count in self._groups], np.int64)
        self.runs = np.concatenate([[0], np.cumsum(counts)])
        self.size = int(self.runs[-1])
        self.name = shards if isinstance(shards, str) else f"{self._paths[0]} and {len(self._paths) - 1} more"
        sizes = [tf.io.gfile.stat(path).length for path in self._paths]
        self.record_bytes = sum(sizes) / self.size
        self.fingerprint = fingerprint_of(
            "parquet", [path.rpartition("/")[2] for path in self._paths], sizes, counts, sorted(self.columns.items())
        )

    def locate(self, index: int) -> tuple[str, int]:
        """The file and the row's number in it."""
        run = int(np.searchsorted(self.runs, index, side="right")) - 1
        file = self._groups[run][0]
        first = next(number for number, group in enumerate(self._groups) if group[0] == file)
        return self._paths[file], index - int(self.runs[first])

    def read(self, index: tf.Tensor) -> dict[str, tf.Tensor]:
        """One raw example, in-graph, at the cost of a row group: see `read_run`."""
        return self.read_run(index, tf.constant(1, tf.int64)).get_single_element()

    def read_run(self, start: tf.Tensor, count: tf.Tensor) -> tf.data.Dataset:
        """Rows of one row group."""
        types = [tf.string, tf.string, tf.string, tf.int64, tf.string, tf.int32]
        image, captions, languages, counts, ids, labels = tf.numpy_function(
            lambda first, rows: _flattened(self._rows(int(first), int(rows))), [start, count], types
        )
        counts = tf.ensure_shape(counts, [None])
        fields = {
            "image": tf.ensure_shape(image, [None]),
            "captions": tf.RaggedTensor.from_row_lengths(tf.ensure_shape(captions, [None]), counts),
            "id": tf.ensure_shape(ids, [None]),
        }
        if "language" in self.columns:
            fields["language"] = tf.RaggedTensor.from_row_lengths(tf.ensure_shape(languages, [None]), counts)
        if "label" in self.columns:
            fields["label"] = tf.ensure_shape(labels, [None])
        return tf.data.Dataset.from_tensor_slices(fields)

    def fetch(self, index: int) -> dict[str, Any]:
        """One raw example outside the graph; of a broken file its cause."""
        run = int(np.searchsorted(self.runs, index, side="right")) - 1
        if run in self._causes:
            captions = np.zeros([0], object)
            return {"image": b"", "captions": captions, "id": b"", "cause": self._causes[run].value.encode()}
        (row,) = self._rows(index, 1)
        return {
            "image": row["image"],
            "captions": np.array(row["captions"], object),
            "id": row["id"],
            "label": np.int32(row["label"]),
            "language": np.array(row["language"], object),
        }

    def _rows(self, first: int, count: int) -> list[dict[str, Any]]:
        import pyarrow.parquet

        run = int(np.searchsorted(self.runs, first, side="right")) - 1
        file, group, _ = self._groups[run]
        inside = first - int(self.runs[run])
        if group < 0:
            return [{"image": b"", "captions": [], "id": b"", "label": -1, "language": []}]
        with open_binary(self._paths[file]) as stream:
            table = pyarrow.parquet.ParquetFile(stream).read_row_group(group, columns=[*self.columns.values()])
        rows = table.slice(inside, count).to_pylist()
        return [self._row(row, self.locate(first + number)) for number, row in enumerate(rows)]

    def _row(self, row: dict[str, Any], place: tuple[str, int]) -> dict[str, Any]:
        values = {field: row[column] for field, column in self.columns.items()}
        image = values["image"]
        image = image.get("bytes") if isinstance(image, dict) else image
        captions = [text for text in _listed(values["captions"]) if isinstance(text, str)]
        languages = _listed(values.get("language")) or [""] * len(captions)
        if len(languages) != len(captions):
            languages = languages[:1] * len(captions)
        name = values.get("id")
        return {
            "image": image or b"",
            "captions": [text.encode() for text in captions],
            "language": [str(language or "").encode() for language in languages],
            "id": str(name if name is not None else f"{place[0].rpartition('/')[2]}:{place[1]}").encode(),
            "label": values["label"] if isinstance(values.get("label"), int) else -1,
        }


def _flattened(rows: list[dict[str, Any]]) -> list[np.ndarray]:
    """Images, captions and languages of all rows, captions a row, ids and labels."""
    captions = [caption for row in rows for caption in row["captions"]]
    languages = [language for row in rows for language in row["language"]]
    return [
        np.array([row["image"] for row in rows], object),
        np.array(captions, object) if captions else np.zeros([0], "S1"),
        np.array(languages, object) if languages else np.zeros([0], "S1"),
        np.array([len(row["captions"]) for row in rows], np.int64),
        np.array([row["id"] for row in rows], object),
        np.array([row["label"] for row in rows], np.int32),
    ]


def _row_groups(path: str) -> tuple[list[int] | None, list[str] | None]:
    """Rows of each group and the columns' names; Nones for a file that is no whole Parquet file."""
    import pyarrow
    import pyarrow.parquet

    with open_binary(path) as stream:
        try:
            file = pyarrow.parquet.ParquetFile(stream)
        except (pyarrow.ArrowInvalid, OSError):
            return None, None
        metadata = file.metadata
        rows = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        return [count for count in rows if count], file.schema_arrow.names


def _choose(given: dict[str, str], names: list[str], path: str) -> dict[str, str]:
    if unknown := given.keys() - _COLUMNS.keys():
        raise ValueError(f"columns are named for {sorted(_COLUMNS)}. Received: {sorted(unknown)}")
    if missing := set(given.values()) - set(names):
        raise ValueError(f"{path} has no columns {sorted(missing)}. Its columns: {', '.join(names)}")
    found = {field: next((name for name in known if name in names), None) for field, known in _COLUMNS.items()}
    columns = {field: name for field, name in {**found, **given}.items() if name is not None}
    if lacking := {"image", "captions"} - columns.keys():
        raise ValueError(f"{path} has no column for {sorted(lacking)}: name it. Its columns: {', '.join(names)}")
    return columns


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]
