"""Ranks and nearest neighbors by dot product, with results that do not depend on the chunk size.

A float32 matrix product rounds differently with each block size, so the chunk size would decide near-ties. Therefore
the float32 product decides only the pairs that differ by more than its rounding error; the few other pairs are scored
again in float64. Scores that differ by less than 1e-12 are equal. Among equal scores, the candidate with the lower
index comes first, as with `argmax` and a stable sort.
"""

import itertools

import numpy as np

# The side of a block of scores. It is large enough for an efficient matrix product and small enough for the cache.
_SIDE = 1536
# The number of float64 elements (pairs x width) that are scored again at once (64 MiB).
_PAIR_ELEMENTS = 1 << 23
# If a larger fraction of a block is undecided (collapsed embeddings), the whole block is scored in float64.
_DENSE_SHARE = 0.02
_TIE = 1e-12


def check_embeddings(embeddings: np.ndarray, name: str) -> np.ndarray:
    """Returns `embeddings` as a C-contiguous float32 array (n, d).

    Raises:
        ValueError: if the embeddings are not two-dimensional, are empty, or contain NaN or infinity.
    """
    embeddings = np.ascontiguousarray(embeddings, dtype=np.float32)
    if embeddings.ndim != 2 or 0 in embeddings.shape:
        raise ValueError(f"`{name}` must have shape (n, d) with n, d >= 1. Received: {embeddings.shape}.")
    # The sum is finite exactly when all values are. Unit vectors cannot make it overflow.
    if not np.isfinite(embeddings.sum(dtype=np.float64)):
        bad = int(np.flatnonzero(~np.isfinite(embeddings).all(axis=1))[0])
        raise ValueError(f"`{name}` holds NaN or infinity, first in row {bad}: the model or its input is broken there.")
    return embeddings


def pair_scores(queries: np.ndarray, candidates: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Returns the dot products of `queries[rows]` (p, d) with `candidates[columns]` (p, d), float64 (p,).

    The products of float32 numbers are exact in float64, and each pair is summed separately along its contiguous axis.
    Therefore a pair's score does not depend on the other pairs.
    """
    scores = np.empty(len(rows), np.float64)
    step = max(1, _PAIR_ELEMENTS // queries.shape[1])
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        products = queries[rows[part]].astype(np.float64)
        products *= candidates[columns[part]]
        scores[part] = products.sum(axis=1)
    return scores


def _block_scores(queries: np.ndarray, candidates: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Returns `pair_scores`, computed by one matrix product if the pairs are a large part of the block."""
    if len(rows) > _DENSE_SHARE * len(queries) * len(candidates):
        return (queries.astype(np.float64) @ candidates.astype(np.float64).T)[rows, columns]
    return pair_scores(queries, candidates, rows, columns)


def _rounding_bound(queries: np.ndarray, candidates: np.ndarray) -> float:
    """Returns the largest error of a float32 dot product minus a rounded number, for any order of summation.

    The sum has an error of at most d u |x| |y|. The rounding of the number and of the difference adds a few u.
    """
    largest = [float(np.sqrt(np.einsum("nd,nd->n", x, x, dtype=np.float64).max())) for x in (queries, candidates)]
    return (queries.shape[1] + 4) * 2.0**-24 * 1.01 * largest[0] * largest[1] + 1e-30


def best_targets(
    queries: np.ndarray, candidates: np.ndarray, rows: np.ndarray, columns: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the right candidate that ranks first for each query.

    Args:
        queries: float32 (n, d).
        candidates: float32 (m, d).
        rows: int (p,), the query of each right pair. Every query occurs at least once.
        columns: int (p,), the candidate of each right pair.

    Returns:
        The score, float64 (n,), and the index, int (n,), of each query's best right candidate. Among equal scores, it
        is the candidate with the lowest index.
    """
    scores = pair_scores(queries, candidates, rows, columns)
    order = np.lexsort((columns, -scores, rows))
    first = np.flatnonzero(np.diff(rows[order], prepend=-1))
    return scores[order][first], columns[order][first]


def ranks(
    queries: np.ndarray,
    candidates: np.ndarray,
    target_scores: np.ndarray,
    targets: np.ndarray,
    chunk_size: int | None = None,
) -> np.ndarray:
    """Returns how many candidates come before each query's target. The best rank is 0.

    Args:
        queries: float32 (n, d).
        candidates: float32 (m, d).
        target_scores: float64 (n,) from `best_targets`.
        targets: int (n,), the index of each query's target among the candidates.
        chunk_size: the side of the blocks of scores in memory. It does not change the result.

    Returns:
        int64 (n,): the number of candidates with a higher score, or with an equal score and a lower index.
    """
    bound = _rounding_bound(queries, candidates)
    rounded_scores = target_scores.astype(np.float32)
    result = np.zeros(len(queries), np.int64)
    side = chunk_size or _SIDE
    for row in range(0, len(queries), side):
        block = queries[row : row + side]
        for column in range(0, len(candidates), side):
            others = candidates[column : column + side]
            difference = block @ others.T
            difference -= rounded_scores[row : row + side, None]
            result[row : row + side] += (difference > bound).sum(axis=1)
            near = np.flatnonzero(np.abs(difference) <= bound)
            rows, columns = near // len(others), near % len(others)
            scores = _block_scores(block, others, rows, columns)
            rows, columns = rows + row, columns + column
            margin = scores - target_scores[rows]
            before = (margin > _TIE) | ((margin >= -_TIE) & (columns < targets[rows]))
            result += np.bincount(rows[before], minlength=len(queries))
    return result


def top_k(
    queries: np.ndarray, candidates: np.ndarray, k: int, chunk_size: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the k best candidates of each query, best first.

    Args:
        queries: float32 (n, d).
        candidates: float32 (m, d).
        k: how many candidates to return, at least 1. It is reduced to m if it is larger.
        chunk_size: the side of the blocks of scores in memory. It does not change the result.

    Returns:
        Indices, int64 (n, k), and scores, float64 (n, k).

    Raises:
        ValueError: if k is below 1.
    """
    if k < 1:
        raise ValueError(f"`k` must be at least 1. Received: {k}.")
    k = min(k, len(candidates))
    margin = 2 * _rounding_bound(queries, candidates)
    indices = np.empty((len(queries), k), np.int64)
    scores = np.empty((len(queries), k), np.float64)
    side = chunk_size or _SIDE
    for start in range(0, len(queries), side):
        block = queries[start : start + side]
        rows, columns = _candidates_for_top_k(block, candidates, k, margin, side)
        exact = np.empty(len(rows), np.float64)
        edges = np.searchsorted(columns // side, np.arange(-(-len(candidates) // side) + 1))
        for chunk, (first, last) in enumerate(itertools.pairwise(edges)):
            others = candidates[chunk * side : (chunk + 1) * side]
            exact[first:last] = _block_scores(block, others, rows[first:last], columns[first:last] - chunk * side)
        order = np.lexsort((columns, -np.round(exact / _TIE), rows))
        first = np.searchsorted(rows[order], np.arange(len(block)))
        keep = order[first[:, None] + np.arange(k)]
        indices[start : start + side] = columns[keep]
        scores[start : start + side] = exact[keep]
    return indices, scores


def _candidates_for_top_k(
    queries: np.ndarray, candidates: np.ndarray, k: int, margin: float, side: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns pairs (rows, columns) that include every query's true top k.

    These are the pairs whose score is within `margin` of the query's k-th best score. Pairs of the first `side`
    candidates come before those of the next.
    """
    threshold = np.full(len(queries), -np.inf, np.float32)
    rows, columns, values = np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)
    for column in range(0, len(candidates), side):
        scores = queries @ candidates[column : column + side].T
        width = scores.shape[1]
        if width >= k:
            threshold = np.maximum(threshold, np.partition(scores, width - k, axis=1)[:, width - k])
        near = np.flatnonzero(scores >= (threshold - margin)[:, None])
        rows = np.concatenate([rows, near // width])
        columns = np.concatenate([columns, near % width + column])
        values = np.concatenate([values, scores.ravel()[near]])
        keep = values >= (threshold - margin)[rows]
        rows, columns, values = rows[keep], columns[keep], values[keep]
    return rows, columns
