"""Records in a source's own order, all of them or some drawn at random."""

import numpy as np
import pytest

from siglip_tf.data.reading import in_order, some_in_order
from tests.data.memory_source import MemorySource

RUNS = [0, 7, 20, 21, 40, 47]


def _read(dataset) -> list[int]:
    rows = [(int(index), example["id"].decode()) for index, example in dataset.as_numpy_iterator()]
    assert all(name == f"memory-{index}" for index, name in rows)
    return [index for index, _ in rows]


@pytest.mark.parametrize("runs", [None, RUNS])
def test_a_range_in_order(runs):
    assert _read(in_order(MemorySource(47, runs=runs), 5, 22)) == [*range(5, 22)]


@pytest.mark.parametrize("runs", [None, RUNS])
def test_some_records_are_drawn_at_random_and_read_in_order(runs):
    source = MemorySource(47, runs=runs)
    drawn = []
    for seed in range(3):
        dataset, chosen = some_in_order(source, 10, seed)
        assert _read(dataset) == chosen.tolist() == sorted({*chosen.tolist()})
        drawn.append(tuple(chosen))
        if runs is None:
            assert len(chosen) == 10
        else:  # whole runs, no more of them than it takes
            own = np.unique(np.searchsorted(RUNS, chosen, side="right") - 1)
            assert sum(np.diff(RUNS)[own]) == len(chosen) >= 10
    assert len(set(drawn)) > 1
    everything, chosen = some_in_order(source, 1000, 0)
    assert _read(everything) == chosen.tolist() == [*range(47)]
