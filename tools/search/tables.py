"""Reads and writes embeddings in formats of other tools: Parquet, numpy's npz, and DuckDB.

Each file contains rows of `id`, `path`, and `embedding`:

- `.parquet`: the columns `id` (int64), `path` (string), `embedding` (a list of float32 or int8), and for int8 `scale`
  (float32). The vector is `scale * embedding`; a cosine does not need the scale. Pandas, Polars, PyArrow, and DuckDB
  can read it.
- `.npz`: arrays with the same names, without pickles.
- `.duckdb`: a table `embeddings` with `embedding` as `FLOAT[dim]`, which DuckDB can search.

All three store the model of the embeddings, so that a query can be embedded with the same model.
"""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from siglip_tf.storage import new_file

from .compression import Compression, projection_of

SUFFIXES = (".parquet", ".npz", ".duckdb")
_KEY = "siglip_tf"
_NEEDED = {".parquet": "pyarrow", ".npz": "numpy", ".duckdb": "duckdb"}
_MODEL_KEYS = ("checkpoint", "tokenizer", "fingerprint")


@dataclasses.dataclass
class Table:
    """Embeddings of pictures.

    Attributes:
        ids: int64 (n,), a different id for each picture.
        paths: the n names of the files.
        vectors: float32 (n, dim), of unit length.
        model: "checkpoint", "tokenizer", and "fingerprint" of the model, as in the index. Empty if they are not known.
        projection: float32 (width, dim) if the vectors are the model's vectors times this matrix, else None.
    """

    ids: np.ndarray
    paths: list[str]
    vectors: np.ndarray
    model: dict[str, Any] = dataclasses.field(default_factory=dict)
    projection: np.ndarray | None = None

    def search(self, vector: np.ndarray, count: int) -> list[tuple[int, float]]:
        """Returns the `count` rows that are nearest to a vector (width,) of the model, as (row, cosine), best first."""
        scores = self.vectors @ (vector if self.projection is None else vector @ self.projection)
        best = np.argsort(-scores, kind="stable")[:count]
        return [(int(i), float(scores[i])) for i in best]


def is_table(path: Path) -> bool:
    """Whether a file name has the suffix of a table."""
    return path.suffix.lower() in SUFFIXES


def write_table(path: Path, table: Table, compression: Compression | None = None) -> None:
    """Writes a table atomically in the format of the file's suffix.

    Args:
        path: a path with one of `SUFFIXES`.
        table: the model's vectors, without a projection.
        compression: a compression for smaller vectors, or None. DuckDB does not support it.

    Raises:
        ValueError: if the suffix is unknown, a package is missing, or the format does not support the compression.
    """
    write = _of_format(path, {".parquet": _write_parquet, ".npz": _write_npz, ".duckdb": _write_duckdb})
    if compression is None:
        columns = {"id": table.ids, "path": table.paths, "embedding": table.vectors.astype(np.float32)}
        notes = table.model
    elif path.suffix.lower() == ".duckdb":
        raise ValueError("Expected a .parquet or .npz file for smaller vectors: DuckDB tables hold float32.")
    else:
        codes, scales = compression.encode(table.vectors)
        columns = {"id": table.ids, "path": table.paths, "embedding": codes}
        if scales is not None:
            columns["scale"] = scales
        notes = table.model | compression.notes()
    with new_file(path) as aside:
        write(Path(aside), columns, notes)


def read_table(path: Path) -> Table:
    """Reads a table that `write_table` or another program wrote.

    If `id` is missing, it is the row's number. Vectors are normalized to unit length.

    Raises:
        ValueError: if the suffix is unknown, a package is missing, a column is missing or has another type, rows have
            different widths, or a vector is zero or not finite.
        OSError: if the file cannot be read.
    """
    if not path.is_file():
        raise ValueError(f"Expected a file {path}. Received: nothing of that name.")
    columns, notes = _of_format(path, {".parquet": _read_parquet, ".npz": _read_npz, ".duckdb": _read_duckdb})(path)
    vectors = np.asarray(columns["embedding"], np.float32)
    if vectors.ndim != 2 or not vectors.shape[1]:
        raise ValueError(f"{path}: expected embeddings (rows, dim). Received: the shape {vectors.shape}.")
    paths = [str(value) for value in columns["path"]]
    ids = np.asarray(columns.get("id", np.arange(len(paths))), np.int64)
    if not len(paths) == len(vectors) == len(ids):
        raise ValueError(f"{path}: {len(paths)} paths, {len(vectors)} embeddings, and {len(ids)} ids do not fit.")
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    bad = np.flatnonzero(~(np.isfinite(lengths[:, 0]) & (lengths[:, 0] > 0)))
    if bad.size:
        raise ValueError(f"{path}: the embedding of row {bad[0]} ({paths[bad[0]]}) is zero or not finite.")
    projection = projection_of(notes)
    if projection is None:  # vectors of fewer dimensions keep their length, which is part of the cosine
        vectors = vectors / lengths
    model = {key: notes[key] for key in _MODEL_KEYS if key in notes}
    return Table(ids, paths, vectors, model, projection)


def _of_format(path: Path, choices: dict[str, Callable]) -> Callable:
    suffix = path.suffix.lower()
    if suffix not in choices:
        raise ValueError(f"Expected a file name that ends with {', '.join(SUFFIXES)}. Received: {path}.")
    try:
        __import__(_NEEDED[suffix])
    except ImportError as error:
        raise ValueError(f"{suffix} files need {_NEEDED[suffix]}: pip install {_NEEDED[suffix]}") from error
    return choices[suffix]


def _arrow(columns: dict[str, Any], notes: dict[str, Any]) -> Any:
    import pyarrow as pa

    embeddings = np.ascontiguousarray(columns["embedding"])
    arrays = {
        "id": pa.array(columns["id"], pa.int64()),
        "path": pa.array(columns["path"], pa.string()),
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(embeddings.ravel()), embeddings.shape[1]),
    }
    if "scale" in columns:
        arrays["scale"] = pa.array(columns["scale"], pa.float32())
    return pa.table(arrays).replace_schema_metadata({_KEY: json.dumps(notes)})


def _write_parquet(path: Path, columns: dict[str, Any], notes: dict[str, Any]) -> None:
    import pyarrow.parquet as pq

    pq.write_table(_arrow(columns, notes), path)


def _read_parquet(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        names = pq.read_schema(path).names
        _check_columns(path, names)
        table = pq.read_table(path, columns=[n for n in ("id", "path", "embedding", "scale") if n in names])
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is not a Parquet file that can be read: {error}") from error
    columns: dict[str, Any] = {}
    for name in table.column_names:
        column = table.column(name).combine_chunks()
        if column.null_count:
            raise ValueError(f"{path}: the column {name} has {column.null_count} empty values.")
        columns[name] = _lists(path, column) if name == "embedding" else column.to_numpy(zero_copy_only=False)
    if "scale" in columns:
        columns["embedding"] = columns["embedding"] * columns["scale"][:, None]
    text = (table.schema.metadata or {}).get(_KEY.encode())
    return columns, json.loads(text) if text else {}


def _lists(path: Path, column: Any) -> np.ndarray:
    """Converts a column of lists to float32 (rows, dim)."""
    import pyarrow as pa

    kind = column.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        raise ValueError(f"{path}: expected lists of numbers in the column embedding. Received: {kind}.")
    values = column.flatten()
    if not (pa.types.is_floating(values.type) or pa.types.is_integer(values.type)) or values.null_count:
        raise ValueError(
            f"{path}: expected lists of numbers in the column embedding. Received: {kind}, or empty values."
        )
    flat = values.to_numpy(zero_copy_only=False).astype(np.float32)
    widths = np.unique(column.value_lengths().to_numpy(zero_copy_only=False)) if len(column) else np.array([0])
    if len(widths) > 1:
        raise ValueError(
            f"{path}: expected embeddings of one width. Received: from {widths[0]} to {widths[-1]} numbers."
        )
    return flat.reshape(len(column), int(widths[0]))


def _check_columns(path: Path, names: list[str]) -> None:
    for name in ("path", "embedding"):
        if name not in names:
            raise ValueError(f"{path}: expected columns id, path, and embedding. Received: {', '.join(names)}.")


def _write_npz(path: Path, columns: dict[str, Any], notes: dict[str, Any]) -> None:
    arrays = columns | {"path": np.array(columns["path"], np.str_), _KEY: np.array(json.dumps(notes))}
    with open(path, "wb") as file:  # np.savez would add a suffix to a path
        np.savez(file, **arrays)


def _read_npz(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file.items())
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} is not an npz file of plain arrays: {error}") from error
    _check_columns(path, list(arrays))
    notes = json.loads(str(arrays.pop(_KEY))) if _KEY in arrays else {}
    if "scale" in arrays:
        arrays["embedding"] = arrays["embedding"] * arrays["scale"][:, None]
    return arrays, notes


def _write_duckdb(path: Path, columns: dict[str, Any], notes: dict[str, Any]) -> None:
    import duckdb

    rows = _arrow(columns, notes)
    dim = columns["embedding"].shape[1]
    with duckdb.connect(str(path)) as connection:
        connection.register("rows", rows)
        connection.execute(f"CREATE TABLE embeddings (id BIGINT PRIMARY KEY, path VARCHAR, embedding FLOAT[{dim}])")
        connection.execute("INSERT INTO embeddings SELECT id, path, embedding FROM rows")
        connection.execute("CREATE TABLE model (name VARCHAR, value VARCHAR)")
        connection.executemany("INSERT INTO model VALUES (?, ?)", [[k, v] for k, v in notes.items()] or [["", ""]])


def _read_duckdb(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    import duckdb

    try:
        with duckdb.connect(str(path), read_only=True) as connection:
            tables = {name for (name,) in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()}
            if "embeddings" not in tables:
                raise ValueError(
                    f"{path}: expected a table embeddings. Received: {', '.join(sorted(tables)) or 'none'}."
                )
            found = connection.execute("SELECT * FROM embeddings ORDER BY rowid").fetchnumpy()
            _check_columns(path, list(found))
            notes = dict(connection.execute("SELECT * FROM model").fetchall()) if "model" in tables else {}
    except duckdb.Error as error:
        raise ValueError(f"{path} is not a DuckDB file that can be read: {error}") from error
    vectors = [np.asarray(value, np.float32) for value in found["embedding"]]
    widths = {len(vector) for vector in vectors}
    if len(widths) > 1:
        raise ValueError(f"{path}: expected embeddings of one width. Received: from {min(widths)} to {max(widths)}.")
    columns = {"path": list(found["path"]), "embedding": np.stack(vectors) if vectors else np.empty((0, 1))}
    if "id" in found:
        columns["id"] = found["id"]
    return columns, notes
