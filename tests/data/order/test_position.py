"""Positions from steps and skips, against a simulation slot by slot."""

import numpy as np
import pytest

from siglip_tf.data.order.bad_records import Cause, TooManyBadRecordsError
from siglip_tf.data.order.position import PositionTracker, merge_states


def _tracker(bad: set[int], limit: float = 1e9, ordered: bool = True) -> PositionTracker:
    return PositionTracker(
        lambda _, slots: [Cause.NOT_UTF8 if slot in bad else None for slot in slots], limit, ordered=ordered
    )


def _sound(bad: set[int], start: int, count: int) -> list[int]:
    return [slot for slot in range(start, start + 10 * count) if slot not in bad][:count]


@pytest.mark.parametrize("seed", range(5))
def test_position_equals_a_simulation(seed):
    rng = np.random.default_rng(seed)
    bad = set(np.flatnonzero(rng.random(400) < 0.2).tolist())
    start = int(rng.integers(10))
    tracker = _tracker(bad)
    tracker.start(3, {0: start}, {"torn_record": 2})
    slots = _sound(bad, start, 200)
    for batch in range(20):  # prefetched far ahead of what is asked for
        tracker.arrived(0, slots[10 * batch : 10 * batch + 10])
    for step in range(3, 23):
        used = 10 * (step - 3)
        passed = slots[used - 1] + 1 if used else start
        skipped = len([slot for slot in range(start, passed) if slot in bad])
        expected = {"not_utf8": skipped, "torn_record": 2} if skipped else {"torn_record": 2}
        assert tracker.position(step, 10) == {"step": step, "passed": {"0": passed}, "skipped": expected}


def test_a_second_iterator_counts_nothing_twice():
    tracker = _tracker({1, 6})
    tracker.start(0, {0: 0}, {})
    for _ in range(2):
        tracker.arrived(0, [0, 2, 3])
        tracker.arrived(0, [4, 5, 7])
    assert tracker.position(2, 3) == {"step": 2, "passed": {"0": 8}, "skipped": {"not_utf8": 2}}


def test_unordered_arrivals(monkeypatch):
    monkeypatch.setattr(PositionTracker, "SLACK", 5)
    tracker = _tracker({3, 4}, ordered=False)
    tracker.start(0, {0: 0}, {})
    tracker.arrived(0, [2, 0, 5])
    tracker.arrived(0, [6, 8, 7])  # slot 1 is late, not lost
    tracker.arrived(0, [10, 9, 11])
    tracker.arrived(0, [1, 12, 14])
    tracker.arrived(0, [13, 15, 16])
    assert tracker.frontier(0) == 17
    assert tracker.skipped(0) == {"not_utf8": 2}


def test_limits():
    tracker = _tracker(set(range(3, 60)), limit=0.1)
    tracker.start(0, {0: 0}, {})
    tracker.arrived(0, [0, 1, 2])
    with pytest.raises(
        TooManyBadRecordsError, match=r"57 of 60 records are broken \(57 not_utf8\), more than 10.00% of"
    ):
        tracker.arrived(0, [60])
    tracker = _tracker({1, 3}, limit=1)
    tracker.start(0, {0: 0}, {})
    tracker.arrived(0, [0, 2])
    with pytest.raises(TooManyBadRecordsError, match="more than 1 records"):
        tracker.arrived(0, [4])
    # A few bad records at the start are no verdict.
    tracker = _tracker(set(range(PositionTracker.GRACE)), limit=0.01)
    tracker.start(0, {0: 0}, {})
    tracker.arrived(0, [PositionTracker.GRACE])


def test_many_skips_are_let_go(monkeypatch):
    monkeypatch.setattr(PositionTracker, "KEPT", 3)
    bad = {1, 3, 5, 7, 9, 11}
    tracker = _tracker(bad)
    tracker.start(0, {0: 0}, {})
    tracker.arrived(0, _sound(bad, 0, 8))
    expected = {"step": 4, "passed": {"0": 7}, "skipped": {"not_utf8": 3}}
    assert tracker.position(4, 1) == expected and tracker.position(4, 1) == expected
    assert tracker.position(6, 1) == {"step": 6, "passed": {"0": 11}, "skipped": {"not_utf8": 5}}
    with pytest.raises(ValueError, match="position at step 3 is not known"):
        tracker.position(3, 1)


def test_merge_states():
    common = {"version": 1, "seed": 0, "step": 5}
    merged = merge_states(
        [
            {**common, "passed": {"0": 4, "1": 5}, "skipped": {"b": 1}},
            {**common, "passed": {"2": 6, "3": 7}, "skipped": {"a": 2, "b": 3}},
        ]
    )
    assert merged == {**common, "passed": {"0": 4, "1": 5, "2": 6, "3": 7}, "skipped": {"a": 2, "b": 4}}
    with pytest.raises(ValueError, match="differ in step: 6 and 5"):
        merge_states([{**common, "passed": {}, "skipped": {}}, {**common, "step": 6, "passed": {}, "skipped": {}}])
    with pytest.raises(ValueError, match="No states"):
        merge_states([])
