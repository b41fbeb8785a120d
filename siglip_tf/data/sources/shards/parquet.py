"""Parquet files whose rows hold encoded images and captions, such as img2dataset's `parquet` output.

pyarrow reads a row group at a time, with one call into Python per row group and none per record. `FolderSource` reads
tables that only name image files.

Source: img2dataset's `parquet` output (columns "key", "jpg", "caption"); Hugging Face's image columns
(`{"bytes", "path"}`).
"""

import concurrent.futures
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from siglip_tf.data.order.bad_records import Cause
from siglip_tf.data.sources.base import Source, fingerprint_of
from siglip_tf.data.sources.groups import NO_GROUP, group_number
from siglip_tf.data.sources.paths import find_shards, is_remote, open_binary, shards_name
from siglip_tf.data.sources.shards.counts import ProgressLine
from siglip_tf.data.sources.tables.reading import shown

_COLUMNS = {
    "image": ("jpg", "image", "png", "webp", "jpeg"),
    "captions": ("captions", "caption", "txt", "text"),
    "id": ("key", "id", "__key__"),
    "label": ("label",),
    "language": ("language", "lang"),
    "group": ("group",),
}

_REMOTE_THREADS = 64


class ParquetSource(Source):
    """Rows of Parquet files, each with an encoded image.

    A file that cannot be opened, or that holds no rows, counts as one bad record. The files may have different columns,
    as long as each has one for images and one for captions.

    Args:
        shards: path, glob, brace range, folder, or a list of these.
        columns: names of the columns by field ("image", "captions", "id", "label", "language", "group"). Common names
            are searched for a field that is not given. Captions may be a string or a list of strings.
        suffix: the suffix of the files in a folder, if it is not ".parquet".

    Raises:
        ValueError: there are no shards, no file can be read, or a file has no column for images or captions.
    """

    def __init__(
        self, shards: str | Sequence[str], *, columns: dict[str, str] | None = None, suffix: str | None = None
    ):
        self._paths = find_shards(shards, suffix or ".parquet")
        # For each run: file, row group, rows. A broken file is a run of one row without a group.
        self._groups: list[tuple[int, int, int]] = []
        self._causes: dict[int, Cause] = {}
        # For each file: its columns by field, and its first run.
        self._columns: list[dict[str, str]] = []
        self._first_runs: list[int] = []
        sizes = []
        for file, (path, (groups, schema, size)) in enumerate(zip(self._paths, _footers(self._paths), strict=True)):
            sizes.append(size)
            self._first_runs.append(len(self._groups))
            self._columns.append({} if schema is None else _choose(columns or {}, schema, path))
            if not groups:
                self._causes[len(self._groups)] = Cause.TORN_SHARD if groups is None else Cause.EMPTY_SHARD
                self._groups.append((file, -1, 1))
            self._groups += [(file, group, count) for group, count in groups or ()]
        self.columns = next((found for found in self._columns if found), None)
        if self.columns is None:
            raise ValueError(f"{self._paths[0]} is not a readable Parquet file, and neither is any other shard.")
        self._fields = {field for found in self._columns for field in found}
        self.has_groups = "group" in self._fields
        counts = np.array([count for _, _, count in self._groups], np.int64)
        self.runs = np.concatenate([[0], np.cumsum(counts)])
        self.size = int(self.runs[-1])
        self.name = shards_name(shards, self._paths)
        self.record_bytes = sum(sizes) / self.size
        self.fingerprint = fingerprint_of(
            "parquet", [path.rpartition("/")[2] for path in self._paths], sizes, counts, sorted(self.columns.items())
        )
        self.notes = (f"columns: {', '.join(f'{field} from {name!r}' for field, name in self.columns.items())}",)
        # The last row group that could not be read, so that its records are not tried again one by one.
        self._failed: tuple[int, str] | None = None
        self._lock = threading.Lock()
        for run, (file, group, _) in enumerate(self._groups):
            if group >= 0 and "group" in self._columns[file]:
                self._check_group(run, self._paths[file], group, self._columns[file]["group"])
                break

    def locate(self, index: int) -> tuple[str, int]:
        """Returns the file and the row's number in the file."""
        run = int(np.searchsorted(self.runs, index, side="right")) - 1
        file = self._groups[run][0]
        return self._paths[file], index - int(self.runs[self._first_runs[file]])

    def read(self, index: tf.Tensor) -> dict[str, tf.Tensor]:
        """Reads one raw example in the graph, at the cost of a row group. See `read_run`."""
        return self.read_run(index, tf.constant(1, tf.int64)).get_single_element()

    def read_run(self, start: tf.Tensor, count: tf.Tensor) -> tf.data.Dataset:
        """Reads rows of one row group in the graph."""
        types = [tf.string, tf.string, tf.string, tf.int64, tf.string, tf.int32, tf.int64]
        image, captions, languages, counts, ids, labels, groups = tf.numpy_function(
            lambda first, rows: _flattened(self._rows(int(first), int(rows))), [start, count], types
        )
        counts = tf.ensure_shape(counts, [None])
        fields = {
            "image": tf.ensure_shape(image, [None]),
            "captions": tf.RaggedTensor.from_row_lengths(tf.ensure_shape(captions, [None]), counts),
            "id": tf.ensure_shape(ids, [None]),
        }
        if "language" in self._fields:
            fields["language"] = tf.RaggedTensor.from_row_lengths(tf.ensure_shape(languages, [None]), counts)
        if "label" in self._fields:
            fields["label"] = tf.ensure_shape(labels, [None])
        if self.has_groups:
            fields["group"] = tf.ensure_shape(groups, [None])
        return tf.data.Dataset.from_tensor_slices(fields)

    def fetch(self, index: int) -> dict[str, Any]:
        """Reads one raw example outside the graph. For a broken file, returns the cause.

        Raises:
            tf.errors.DataLossError: the record's row group cannot be read.
        """
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
            **({"group": np.int64(row["group"])} if self.has_groups else {}),
        }

    def _rows(self, first: int, count: int) -> list[dict[str, Any]]:
        run = int(np.searchsorted(self.runs, first, side="right")) - 1
        file, group, rows = self._groups[run]
        inside = first - int(self.runs[run])
        if group < 0:
            return [{"image": b"", "captions": [], "id": b"", "label": -1, "language": [], "group": NO_GROUP}]
        table = self._group(run, self._paths[file], group, [*self._columns[file].values()])
        if table.num_rows != rows:
            raise tf.errors.DataLossError(
                None, None, f"row group {group} of {self._paths[file]} holds {table.num_rows} rows, not {rows}"
            )
        values = table.slice(inside, count).to_pylist()
        return [self._row(row, self._columns[file], self.locate(first + number)) for number, row in enumerate(values)]

    def _check_group(self, run: int, path: str, group: int, column: str) -> None:
        """Refuses a column of groups by its first value. A row group that cannot be read is handled later."""
        try:
            values = self._group(run, path, group, [column]).column(0).slice(0, 1).to_pylist()
        except tf.errors.DataLossError:
            return
        group_number(values[0] if values else None, f"column {column!r} of {path}")

    def _group(self, run: int, path: str, group: int, columns: list[str]) -> Any:
        """Reads columns of a row group, texts as bytes. A group that failed before fails again without being read."""
        import pyarrow.parquet

        with self._lock:
            if self._failed is not None and self._failed[0] == run:
                raise tf.errors.DataLossError(None, None, self._failed[1])
        try:
            with open_binary(path) as stream:
                table = pyarrow.parquet.ParquetFile(stream).read_row_group(group, columns=columns)
            table.validate()
            return _with_bytes(table)
        except (pyarrow.ArrowException, OSError, ValueError, MemoryError) as error:
            message = f"row group {group} of {path} cannot be read: {shown(error)}"
            with self._lock:
                self._failed = run, message
            raise tf.errors.DataLossError(None, None, message) from error

    def _row(self, row: dict[str, Any], columns: dict[str, str], place: tuple[str, int]) -> dict[str, Any]:
        values = {field: row[column] for field, column in columns.items()}
        image = values["image"]
        image = image.get("bytes") if isinstance(image, dict) else image
        captions = [text for text in _listed(values["captions"]) if isinstance(text, bytes)]
        languages = _listed(values.get("language")) or [b""] * len(captions)
        if len(languages) != len(captions):
            languages = languages[:1] * len(captions)
        name, label = values.get("id"), values.get("label")
        if name is None:
            name = f"{place[0].rpartition('/')[2]}:{place[1]}"
        return {
            "image": image or b"",
            "captions": captions,
            "language": [language if isinstance(language, bytes) else b"" for language in languages],
            "id": name if isinstance(name, bytes) else str(name).encode(),
            "label": label if isinstance(label, int) and abs(label) < 1 << 31 else -1,
            "group": group_number(values.get("group"), f"column {columns.get('group')!r} of {place[0]}"),
        }


def _flattened(rows: list[dict[str, Any]]) -> list[np.ndarray]:
    """Returns images, captions, and languages of all rows, captions per row, ids, labels, and groups."""
    captions = [caption for row in rows for caption in row["captions"]]
    languages = [language for row in rows for language in row["language"]]
    return [
        np.array([row["image"] for row in rows], object),
        np.array(captions, object) if captions else np.zeros([0], "S1"),
        np.array(languages, object) if languages else np.zeros([0], "S1"),
        np.array([len(row["captions"]) for row in rows], np.int64),
        np.array([row["id"] for row in rows], object),
        np.array([row["label"] for row in rows], np.int32),
        np.array([row["group"] for row in rows], np.int64),
    ]


def _footers(paths: Sequence[str]) -> list[tuple[list[tuple[int, int]] | None, Any, int]]:
    """Reads the row groups and the size of many files in parallel, since an object store needs requests for each."""
    line = ProgressLine("Reading Parquet footers", len(paths))
    found = []
    with concurrent.futures.ThreadPoolExecutor(_REMOTE_THREADS if is_remote(paths[0]) else 1) as pool:
        for number, footer in enumerate(pool.map(_footer, paths), 1):
            found.append(footer)
            line.show(number)
    return found


def _footer(path: str) -> tuple[list[tuple[int, int]] | None, Any, int]:
    return *_row_groups(path), tf.io.gfile.stat(path).length


def _row_groups(path: str) -> tuple[list[tuple[int, int]] | None, Any]:
    """Returns (number, rows) of each group that is not empty, and the schema, or Nones for a damaged file."""
    import pyarrow
    import pyarrow.parquet

    with open_binary(path) as stream:
        try:
            file = pyarrow.parquet.ParquetFile(stream)
            metadata, schema = file.metadata, file.schema_arrow
            rows = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        except (pyarrow.ArrowException, OSError, ValueError):
            return None, None
        # A damaged footer can sometimes still be parsed.
        if min(rows, default=0) < 0 or sum(rows) != metadata.num_rows:
            return None, None
        return [(group, count) for group, count in enumerate(rows) if count > 0], schema


def holds_images(path: str) -> bool:
    """Says whether a Parquet file has a column of bytes, rather than names of image files.

    A file that cannot be read counts as a shard with images, and as broken.
    """
    _, schema = _row_groups(path)
    return schema is None or any(_holds_bytes(field.type) for field in schema)


def _holds_bytes(kind: Any) -> bool:
    """Says whether a column holds bytes, bytes with their path, or lists of these."""
    return _holds_bytes(kind.value_type) if _is_list(kind) else _is_bytes(kind) or _is_struct_of_bytes(kind)


def _is_bytes(kind: Any) -> bool:
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    views = types.is_binary_view(kind) if hasattr(types, "is_binary_view") else False
    return types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind) or views


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    views = types.is_string_view(kind) if hasattr(types, "is_string_view") else False
    return types.is_string(kind) or types.is_large_string(kind) or views


def _is_struct_of_bytes(kind: Any) -> bool:
    from pyarrow import types

    return types.is_struct(kind) and any(field.name == "bytes" and _is_bytes(field.type) for field in kind)


def _is_list(kind: Any) -> bool:
    from pyarrow import types

    views = [f"is_{name}" for name in ("list", "large_list", "fixed_size_list", "list_view", "large_list_view")]
    return any(getattr(types, name)(kind) for name in views if hasattr(types, name))


def _with_bytes(table: Any) -> Any:
    """Turns texts of a table into bytes, because pyarrow refuses a whole column if one text is not UTF-8."""
    import pyarrow

    for number, field in enumerate(table.schema):
        kind = field.type
        if _is_list(kind) and _is_text(kind.value_type):
            target = pyarrow.large_list(pyarrow.large_binary())
        elif _is_text(kind):
            target = pyarrow.large_binary()
        else:
            continue
        column = table.column(number)
        if pyarrow.types.is_dictionary(kind):
            column = column.cast(kind.value_type, safe=False)
        table = table.set_column(number, pyarrow.field(field.name, target), column.cast(target, safe=False))
    return table


def _choose(given: dict[str, str], schema: Any, path: str) -> dict[str, str]:
    names = schema.names
    if unknown := given.keys() - _COLUMNS.keys():
        raise ValueError(f"columns are named for {sorted(_COLUMNS)}. Received: {sorted(unknown)}")
    if missing := set(given.values()) - set(names):
        raise ValueError(f"{path} has no columns {sorted(missing)}. Its columns: {', '.join(names)}")
    found = {field: next((name for name in known if name in names), None) for field, known in _COLUMNS.items()}
    columns = {field: name for field, name in {**found, **given}.items() if name is not None}
    if lacking := {"image", "captions"} - columns.keys():
        raise ValueError(f"{path} has no column for {sorted(lacking)}: name it. Its columns: {', '.join(names)}")
    kind = schema.field(columns["image"]).type
    if not _is_bytes(kind) and not _is_struct_of_bytes(kind):
        raise ValueError(
            f"{path}: expected the images' column {columns['image']!r} to hold bytes, or bytes and path. It holds "
            f"{shown(str(kind))}." + " Write one image per row." * _is_list(kind)
        )
    kind = schema.field(columns["captions"]).type
    inner = kind.value_type if _is_list(kind) else kind
    if not _is_text(inner) and not _is_bytes(inner):
        raise ValueError(
            f"{path}: expected the captions' column {columns['captions']!r} to hold texts, or lists of texts. It "
            f"holds {shown(str(kind))}."
        )
    return columns


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]
