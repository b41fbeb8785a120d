"""Makes vectors smaller for a search: fewer dimensions, and 8 bits per dimension.

SigLIP's vectors are not trained to be truncated (as Matryoshka embeddings are), so truncation loses much. The principal
directions of the pictures' vectors lose less. `python -m tools.benchmark search --compression` measures both.
"""

import base64
import dataclasses
from typing import Any

import numpy as np

_LEAST_SAMPLE = 2  # smallest number of vectors per dimension that is kept
_SAMPLE = 50_000


@dataclasses.dataclass(frozen=True)
class Compression:
    """A method to make vectors smaller.

    Attributes:
        projection: float32 (width, dims), with which vectors and queries are multiplied. None keeps all dimensions.
        int8: whether each vector is stored as int8 with its own scale.
    """

    projection: np.ndarray | None = None
    int8: bool = False

    @classmethod
    def fitted(cls, vectors: np.ndarray, dims: int | None = None, int8: bool = False) -> "Compression":
        """Returns a compression that is fitted to some vectors.

        Args:
            vectors: float32 (n, width).
            dims: how many principal directions to keep. None keeps all dimensions unchanged.
            int8: whether to store 8 bits per dimension.

        Raises:
            ValueError: if `dims` is not below the width, or there are too few vectors to find the directions.
        """
        if dims is None:
            return cls(None, int8)
        width = vectors.shape[1]
        if not 0 < dims < width:
            raise ValueError(f"Expected from 1 to {width - 1} dimensions. Received: {dims}.")
        if len(vectors) < _LEAST_SAMPLE * dims:
            raise ValueError(
                f"Expected at least {_LEAST_SAMPLE * dims} vectors to find {dims} directions. Received: {len(vectors)}."
            )
        step = max(1, len(vectors) // _SAMPLE)
        sample = vectors[::step].astype(np.float64)
        # Do not center the vectors: a search compares inner products, and these directions preserve them best.
        _, directions = np.linalg.eigh(sample.T @ sample)
        return cls(np.ascontiguousarray(directions[:, ::-1][:, :dims], np.float32), int8)

    @classmethod
    def cut(cls, width: int, dims: int, int8: bool = False) -> "Compression":
        """Returns a compression that keeps the first `dims` dimensions unchanged, for comparison."""
        return cls(np.eye(width, dims, dtype=np.float32), int8)

    def encode(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Encodes vectors (n, width) as float32 (n, dims), or as int8 (n, dims) with float32 scales (n,)."""
        small = vectors if self.projection is None else vectors @ self.projection
        if not self.int8:
            return small.astype(np.float32), None
        scales = np.abs(small).max(axis=1) / 127
        scales = np.where(scales > 0, scales, 1).astype(np.float32)
        return np.round(small / scales[:, None]).astype(np.int8), scales

    def query(self, vector: np.ndarray) -> np.ndarray:
        """Projects a query (width,) to the dimensions of the encoded vectors (dims,)."""
        return vector if self.projection is None else vector @ self.projection

    def notes(self) -> dict[str, Any]:
        """Returns the projection as JSON values, or {} if there is none."""
        if self.projection is None:
            return {}
        data = base64.b64encode(self.projection.astype("<f4").tobytes()).decode()
        return {"projection": {"shape": list(self.projection.shape), "float32": data}}

    def bytes_of(self, width: int) -> int:
        """Returns the bytes of one encoded vector."""
        dims = width if self.projection is None else self.projection.shape[1]
        return dims + 4 if self.int8 else 4 * dims


def projection_of(notes: dict[str, Any]) -> np.ndarray | None:
    """Returns the matrix that `Compression.notes` wrote, float32 (width, dims), or None if there is none.

    Raises:
        ValueError: if the content is invalid.
    """
    if "projection" not in notes:
        return None
    try:
        rows, dims = notes["projection"]["shape"]
        data = base64.b64decode(notes["projection"]["float32"], validate=True)
        return np.frombuffer(data, "<f4").reshape(rows, dims).astype(np.float32)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"the projection cannot be read: {error}") from error
