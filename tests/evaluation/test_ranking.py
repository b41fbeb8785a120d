"""Exact ranks and neighbours: against float64 numpy, with ties, whatever the chunk size."""

import numpy as np
import pytest

from siglip_tf.evaluation.ranking import best_targets, check_embeddings, pair_scores, ranks, top_k
from tests.evaluation.example_embeddings import unit

CHUNKS = [1, 3, 64, 1000, None]


@pytest.fixture
def tied(rng):
    """Unit vectors of few distinct values (many exact ties) and some a hair apart (near-ties)."""
    base = unit(rng.normal(size=(40, 33)))
    candidates = base[rng.integers(0, 40, 150)]
    candidates[75:] = np.nextafter(candidates[75:], np.float32(1), dtype=np.float32)
    return base, np.ascontiguousarray(candidates)


def stable_order(queries, candidates):
    """The definition, in float64 and one pair at a time."""
    scores = np.array([[np.dot(q.astype(float), c.astype(float)) for c in candidates] for q in queries])
    exact = np.array([[(q.astype(float) * c).sum() for c in candidates] for q in queries])
    np.testing.assert_allclose(exact, scores, rtol=0, atol=1e-14)
    return exact, np.argsort(-exact, axis=1, kind="stable")


@pytest.mark.parametrize("chunk_size", CHUNKS)
def test_top_k_is_a_stable_sort(tied, chunk_size):
    queries, candidates = tied
    exact, order = stable_order(queries, candidates)
    for k in (1, 5, 149, 150, 400):
        indices, scores = top_k(queries, candidates, k, chunk_size)
        np.testing.assert_array_equal(indices, order[:, :k])
        np.testing.assert_allclose(scores, np.take_along_axis(exact, order[:, :k], axis=1), rtol=0, atol=1e-12)


@pytest.mark.parametrize("chunk_size", CHUNKS)
def test_ranks_are_positions_in_a_stable_sort(tied, rng, chunk_size):
    queries, candidates = tied
    exact, order = stable_order(queries, candidates)
    targets = rng.integers(0, len(candidates), len(queries))
    found = ranks(queries, candidates, exact[np.arange(len(queries)), targets], targets, chunk_size)
    np.testing.assert_array_equal(found, (order == targets[:, None]).argmax(axis=1))


def test_collapsed_embeddings_rank_by_index():
    same = np.full((7, 5), 5**-0.5, np.float32)
    indices, _ = top_k(same, same, 3)
    np.testing.assert_array_equal(indices, [[0, 1, 2]] * 7)
    scores = pair_scores(same, same, np.arange(7), np.arange(7))
    np.testing.assert_array_equal(ranks(same, same, scores, np.arange(7)), np.arange(7))


def test_best_target_is_the_first_of_equal_ones():
    queries = np.eye(2, 3, dtype=np.float32)
    candidates = np.array([[0.5, 0, 0], [0.9, 0, 0], [0.9, 0, 0], [0, 1, 0]], np.float32)
    scores, best = best_targets(queries, candidates, np.array([0, 1, 0, 0]), np.array([0, 3, 2, 1]))
    np.testing.assert_array_equal(best, [1, 3])
    np.testing.assert_allclose(scores, [0.9, 1.0], rtol=1e-7)


@pytest.mark.parametrize("width", [1, 2, 3])
def test_one_dimension_is_enough(rng, width):
    queries, candidates = (rng.normal(size=(n, width)).astype(np.float32) for n in (30, 200))
    _, order = stable_order(queries, candidates)
    np.testing.assert_array_equal(top_k(queries, candidates, 7)[0], order[:, :7])


def test_bad_embeddings_are_named():
    with pytest.raises(ValueError, match=r"`x` must have shape \(n, d\)"):
        check_embeddings(np.zeros(3), "x")
    with pytest.raises(ValueError, match="first in row 1"):
        check_embeddings(np.array([[0.0, 1], [np.nan, 0]]), "x")
    with pytest.raises(ValueError, match="`k` must be at least 1"):
        top_k(np.eye(2), np.eye(2), 0)
