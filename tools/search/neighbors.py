"""Approximate nearest neighbors for large indexes with usearch's HNSW graph (`pip install usearch`), which is optional.

An exact search reads every vector, which is 3 GB per query for a million vectors of 768 numbers. The graph reads only a
few thousand vectors, and its results are ranked again by exact scores.
"""

import hashlib
import importlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from siglip_tf.storage import new_file

# With fewer pictures, a matrix product needs only a few milliseconds.
WORTH_A_GRAPH = 50_000
_ADDED_AT_ONCE = 10_000
# The number of candidates that a search visits. A larger number gives a higher recall and a slower search.
_EXPANSION = 256


def available() -> bool:
    """Whether usearch is installed."""
    try:
        importlib.import_module("usearch.index")
    except ImportError:
        return False
    return True


def key_of(path: str, size: int, modified: int) -> int:
    """Returns a file's key in the graph. It changes when the file changes."""
    digest = hashlib.blake2b(f"{path}\0{size}\0{modified}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class Neighbors:
    """A graph of vectors by key, which is stored in one file.

    Args:
        path: the file. It is read if it exists.
        width: the size of a vector.
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
        """Updates the graph so that it contains exactly `keys` (n,) with `vectors` (n, width), and saves it.

        Returns:
            The number of new keys.
        """
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
        """Returns approximately the `count` nearest keys, in any order."""
        return [int(key) for key in self._graph.search(vector, count).keys]
