"""Approximate nearest neighbors for large indexes, by usearch's HNSW graph (`pip install usearch`), optional.

An exact search reads every vector: 3 GB a query at a million of 768 numbers. The graph reads a few thousand of them,
and what it finds is ranked again by the exact scores.
"""

import hashlib
import importlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from siglip_tf.storage import new_file

# Below this many pictures a matrix product answers in a few milliseconds.
WORTH_A_GRAPH = 50_000
_ADDED_AT_ONCE = 10_000
# Candidates looked at for each result: what recall costs.
_EXPANSION = 256


def available() -> bool:
    """Whether usearch is installed."""
    try:
        importlib.import_module("usearch.index")
    except ImportError:
        return False
    return True


def key_of(path: str, size: int, modified: int) -> int:
    """A file's key in the graph; changes when the file does."""
    digest = hashlib.blake2b(f"{path}\0{size}\0{modified}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class Neighbors:
    """A graph of vectors by key, kept in one file.

    Args:
        path: the file; read if it is there.
        width: numbers in a vector.
    """

    def __init__(self, path: Path, width: int):
        from usearch.index import Index

        self._path = path
        self._graph = Index(ndim=width, metric="ip", dtype="f16", expansion_add=128, expansion_search=_EXPANSION)
        if path.exists():
            self._graph.load(str(path))

    def __len__(self) -> int:
        return len(self._graph)

    def follow(self, keys: Sequence[int], vectors: np.ndarray, progress=None) -> int:
        """Makes the graph hold exactly `keys` (n,) with `vectors` (n, width), and saves it; how many were new."""
        wanted = np.array(keys, np.uint64)
        there = np.asarray(self._graph.keys[:], np.uint64)
        gone = np.setdiff1d(there, wanted)
        for key in gone.tolist():
            self._graph.remove(key)
        new = np.flatnonzero(~np.isin(wanted, there))
        for start in range(0, len(new), _ADDED_AT_ONCE):
            part = new[start : start + _ADDED_AT_ONCE]
            self._graph.add(wanted[part], vectors[part])
            if progress is not None:
                progress(start + len(part), len(new))
        if gone.size or new.size or not self._path.exists():
            with new_file(self._path) as aside:
                self._graph.save(aside)
        return len(new)

    def search(self, vector: np.ndarray, count: int) -> list[int]:
        """About the `count` nearest keys, in no particular order."""
        return [int(key) for key in self._graph.search(vector, count).keys]
