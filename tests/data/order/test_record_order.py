"""Every record once an epoch over all streams, whatever the sizes; windows read whole runs, in reading order."""

import numpy as np
import pytest

from siglip_tf.data.order.record_order import RecordOrder, RunOrder

RUNS = {
    "even": np.arange(0, 97, 8),
    "uneven": np.cumsum([0, 5, 1, 30, 2, 2, 17, 40, 4]),
    "one": np.array([0, 40]),
}


def _of_windows(order: RunOrder, stream: int, slots: int) -> np.ndarray:
    """The records of a stream's first slots by reading windows."""
    records = []
    while len(records) < slots:
        first, end, pieces, gather = order.window(stream, np.array(len(records)))
        assert int(first) == len(records)
        assert int(order.window(stream, end - 1)[0]) == int(first)
        read = np.concatenate([np.arange(start, start + count) for start, count in pieces])
        records.extend(read[gather])
        assert len(records) == int(end)
    return np.array(records[:slots])


def _check_each_record_once_an_epoch(order: RecordOrder, records: np.ndarray) -> list[np.ndarray]:
    """records (streams, slots)."""
    slots = np.arange(records.shape[1])
    epochs = np.stack([order.epochs(stream, slots) for stream in range(order.streams)])
    seen = [records[epochs == epoch] for epoch in range(3)]
    for records_of_epoch in seen:
        np.testing.assert_array_equal(np.sort(records_of_epoch), np.arange(order.size))
    # Streams stay within one slot of each other: the slots of a global batch are those of one sequence.
    ends = (epochs == 2).argmax(axis=1)
    assert ends.max() - ends.min() <= 1
    return seen


@pytest.mark.parametrize("streams", [1, 2, 3, 8])
@pytest.mark.parametrize("size", [8, 101])
@pytest.mark.parametrize("shuffle", [True, False])
def test_each_record_once_an_epoch(streams, size, shuffle):
    order = RecordOrder(size, 3, streams, shuffle)
    slots = np.arange(4 * size // streams + 8)
    records = np.stack([order.records(stream, slots) for stream in range(streams)])
    first, second, _ = _check_each_record_once_an_epoch(order, records)
    assert np.array_equal(first, second) != shuffle


@pytest.mark.parametrize("streams", [1, 3])
@pytest.mark.parametrize("runs", RUNS.values(), ids=RUNS)
@pytest.mark.parametrize("window_runs", [1, 3])
def test_each_record_once_an_epoch_by_runs(streams, runs, window_runs):
    order = RunOrder(runs, window_runs, 5, streams)
    slots = 4 * order.size // streams + 8
    records = np.stack([_of_windows(order, stream, slots) for stream in range(streams)])
    first, second, _ = _check_each_record_once_an_epoch(order, records)
    assert not np.array_equal(first, second)


def test_single_slots_agree_with_windows():
    order = RunOrder(RUNS["uneven"], 2, 5, streams=2)
    np.testing.assert_array_equal(order.records(1, np.arange(40, 70)), _of_windows(order, 1, 70)[40:])


def test_windows_read_whole_runs():
    order = RunOrder(RUNS["even"], 3, 1)
    _, _, pieces, gather = order.window(0, np.array(30))
    np.testing.assert_array_equal(pieces[:, 1], [8, 8, 8])
    assert set(pieces[:, 0]) <= set(RUNS["even"])
    assert not np.array_equal(gather, np.arange(24))


def test_without_shuffle_one_stream_is_the_source_order():
    expected = np.tile(np.arange(40), 2)
    slots = np.arange(80)
    np.testing.assert_array_equal(RecordOrder(40, 0, shuffle=False).records(0, slots), expected)
    np.testing.assert_array_equal(_of_windows(RunOrder([0, 7, 40], 1, 0, shuffle=False), 0, 80), expected)


def test_seed_decides():
    slots = np.arange(1000)
    same = [RecordOrder(1000, seed).records(0, slots) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(same[0], same[1])
    assert (same[0] == same[2]).mean() < 0.02


def test_a_billion_records_need_no_memory():
    order = RecordOrder(10**9, 1, streams=16)
    slots = np.array([0, 10**9 // 16, 123_456_789_012])
    records = order.records(15, slots)
    assert ((records >= 0) & (records < 10**9)).all()
    np.testing.assert_array_equal(order.epochs(15, slots), (slots * 16 + 15) // 10**9)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RecordOrder(0, 0), "between 1 and 2"),
        (lambda: RecordOrder(3, 0, streams=4), "3 records that they share. Received: 4"),
        (lambda: RecordOrder(3, -1), "seed must not be negative. Received: -1"),
        (lambda: RunOrder([0, 4, 4], 1, 0), "rise from 0"),
        (lambda: RunOrder([0, 4], 0, 0), "window_runs must be at least 1. Received: 0"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
