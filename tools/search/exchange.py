"""Exports an index as a table for other tools, and builds an index from another tool's table."""

import dataclasses
import os
from pathlib import Path

import numpy as np

from .compression import Compression
from .index import File, Index, Towers, scan
from .tables import Table, read_table, write_table

_SAMPLE = 4  # pictures that are embedded again, to check that a table's vectors are from this model
_LEAST_COSINE = 0.98  # the cosine of a picture's float32 vector with its float16 or int8 vector is above 0.999


def export_index(index: Index, path: Path, dims: int | None = None, int8: bool = False) -> int:
    """Writes an index as a table, and returns the number of rows.

    Args:
        index: a loaded index.
        path: the file to write. Its suffix determines the format.
        dims: how many principal directions to keep, or None for all dimensions.
        int8: whether to store 8 bits per dimension.

    Raises:
        ValueError: if the index is empty, or `write_table` or `Compression.fitted` refuses the arguments.
    """
    if not index.files:
        raise ValueError(f"The index of {index.folder} holds no pictures.")
    compression = Compression.fitted(index.vectors, dims, int8) if int8 or dims is not None else None
    ids = np.array([file.key for file in index.files], np.int64)
    table = Table(ids, [file.path for file in index.files], index.vectors, index.manifest())
    write_table(path, table, compression)
    return len(ids)


@dataclasses.dataclass(frozen=True)
class Imported:
    """The number of rows of a table that were added to an index, and the paths of rows that are not in its folder."""

    used: int
    elsewhere: list[str]


def import_table(index: Index, path: Path, towers: Towers, checkpoint: str, tokenizer: str | None) -> Imported:
    """Adds a table's vectors to the index of a folder, so that its pictures need not be embedded again.

    A few pictures are embedded again, to check that the vectors are from this model.

    Args:
        index: the index of the folder. It keeps what it already contains.
        path: the table. Its paths are absolute, or relative to the folder.
        towers: the model.
        checkpoint: the path of the model's checkpoint.
        tokenizer: the tokenizer file that the checkpoint needs, if any.

    Raises:
        ValueError: if no picture of the table is in the folder, the vectors are from another model or have another
            width, or the table cannot be read.
    """
    table = read_table(path)
    check_model(table, path, towers)
    if table.projection is not None:
        raise ValueError(f"{path} holds vectors of fewer dimensions than the model's. Export it without --dims.")
    found = scan(index.folder)
    rows: dict[str, int] = {}
    elsewhere = []
    for row, name in enumerate(table.paths):
        relative = _relative(name, index.folder)
        if relative in found:
            rows[relative] = row
        else:
            elsewhere.append(name)
    if not rows:
        raise ValueError(f"No path of {path} is a picture in {index.folder}. The first one is {table.paths[:1]}.")
    files = [found[name] for name in rows]
    vectors = table.vectors[list(rows.values())]
    _check_sample(index.folder, files, vectors, towers, path)
    index.begin(towers, checkpoint, tokenizer)
    index.add(files, vectors, {})
    index.load()
    return Imported(len(files), elsewhere)


def check_model(table: Table, path: Path, towers: Towers) -> None:
    """Raises a ValueError if a table says that it is from another model, or if its width is wrong."""
    if table.model.get("fingerprint") not in (None, towers.fingerprint):
        raise ValueError(f"{path} was made by another model, from {table.model.get('checkpoint')}. Use that one.")
    width = table.vectors.shape[1] if table.projection is None else table.projection.shape[0]
    if width != towers.model.embed_dim:
        raise ValueError(f"{path} holds vectors of {width} numbers; the model makes {towers.model.embed_dim}.")


def _relative(name: str, folder: Path) -> str:
    if not os.path.isabs(name):
        return Path(name).as_posix()
    return Path(os.path.relpath(name, folder.absolute())).as_posix()


def _check_sample(folder: Path, files: list[File], vectors: np.ndarray, towers: Towers, path: Path) -> None:
    for i in np.linspace(0, len(files) - 1, min(_SAMPLE, len(files)), dtype=int):
        cosine = float(towers.image((folder / files[i].path).read_bytes()) @ vectors[i])
        if cosine < _LEAST_COSINE:
            raise ValueError(
                f"{path}: the vector of {files[i].path} is not this model's: their cosine is {cosine:.3f}, "
                f"expected {_LEAST_COSINE} or more."
            )
