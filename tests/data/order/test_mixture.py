"""Proportions of a mixture, exactly, and positions within it."""

import numpy as np
import pytest

from siglip_tf.data.order.mixture import BLOCK, Mixture
from tests.data.memory_source import MemorySource


def _mixture(weights=None):
    return Mixture([MemorySource(10), MemorySource(20, name="b"), MemorySource(70, name="c")], weights)


def test_every_block_holds_the_proportions_in_another_order():
    mixture = _mixture([2, 1, 1])
    blocks = [mixture.components(3, stream, block) for stream in range(2) for block in range(3)]
    for block in blocks:
        np.testing.assert_array_equal(np.bincount(block), [500, 250, 250])
    assert len({block.tobytes() for block in blocks}) == 6
    np.testing.assert_array_equal(_mixture().counts, [100, 200, 700])
    thirds = _mixture([1, 1, 1]).counts
    assert thirds.sum() == BLOCK and set(thirds) == {333, 334}


def test_slots_within_the_sources():
    mixture = _mixture([0.5, 0.2, 0.3])
    sequence = np.concatenate([mixture.components(0, 1, block) for block in range(3)])
    for slot in (0, 1, 999, 1000, 1001, 2777):
        counts = np.bincount(sequence[:slot], minlength=3)
        np.testing.assert_array_equal(mixture.component_slots(0, 1, slot), counts)
        assert mixture.component_at(0, 1, slot) == (sequence[slot], counts[sequence[slot]])


def test_bad_weights():
    for weights in ([1, 2], [1, 1, -1], [1, 1, float("nan")]):
        with pytest.raises(ValueError, match="Expected one weight above 0 for each of 3 sources"):
            _mixture(weights)
    with pytest.raises(ValueError, match="The weights of memory are below 1 in 1000"):
        _mixture([1e-5, 1, 1])
    with pytest.raises(ValueError, match="at least one source"):
        Mixture([])


def test_fingerprint_follows_sources_and_weights():
    assert _mixture([1, 1, 1]).fingerprint == _mixture([2, 2, 2]).fingerprint != _mixture([1, 1, 2]).fingerprint
