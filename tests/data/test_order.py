"""Every record once an epoch over all streams, whatever the sizes; windows read what their slots name."""

import numpy as np
import pytest
import tensorflow as tf

from siglip_tf.data.order import Order


def _epochs_and_records(order: Order, slots: int) -> tuple[np.ndarray, np.ndarray]:
    """(streams, slots) of each."""
    index = tf.range(slots, dtype=tf.int64)
    epochs = np.stack([order.epochs(g, index).numpy() for g in range(order.streams)])
    return epochs, np.stack([order.records(g, index).numpy() for g in range(order.streams)])


@pytest.mark.parametrize("streams", [1, 2, 3, 8])
@pytest.mark.parametrize(
    ("size", "run_length", "window_runs"), [(8, 1, 1), (101, 1, 1), (101, 7, 3), (40, 100, 2), (96, 8, 4)]
)
@pytest.mark.parametrize("shuffle", [True, False])
def test_each_record_once_an_epoch(streams, size, run_length, window_runs, shuffle):
    order = Order(size, 3, streams, run_length, window_runs, shuffle)
    epochs, records = _epochs_and_records(order, 4 * size)
    seen = [records[epochs == epoch] for epoch in range(3)]
    for records_of_epoch in seen:
        np.testing.assert_array_equal(np.sort(records_of_epoch), np.arange(size))
    if shuffle and size > 50:
        assert not np.array_equal(seen[0], seen[1])
    # Streams stay within one slot of each other: the slots of a global batch are those of one sequence.
    ends = (epochs == 0).sum(axis=1)
    assert ends.max() - ends.min() <= 1 and ends.sum() == size


def test_without_shuffle_one_stream_is_the_source_order():
    _, records = _epochs_and_records(Order(10, 0, shuffle=False), 20)
    np.testing.assert_array_equal(records[0], np.tile(np.arange(10), 2))


def test_seed_decides():
    slots = tf.range(1000, dtype=tf.int64)
    same = [Order(1000, seed).records(0, slots).numpy() for seed in (1, 1, 2)]
    np.testing.assert_array_equal(same[0], same[1])
    assert (same[0] == same[2]).mean() < 0.02


@pytest.mark.parametrize("streams", [1, 3])
def test_windows_read_what_their_slots_name(streams):
    order = Order(103, 5, streams, run_length=6, window_runs=3)
    for stream in range(streams):
        slot = 0
        while slot < 120:
            here = tf.constant(slot, tf.int64)
            end = int(order.window_end(stream, here))
            slots = tf.range(slot, end, dtype=tf.int64)
            assert {int(order.window_start(stream, s)) for s in slots} == {slot}
            pieces, gather = order.shuffled_within(stream, slots)
            read = np.concatenate([np.arange(start, start + count) for start, count in pieces.numpy()])
            np.testing.assert_array_equal(read[gather.numpy()], order.records(stream, slots).numpy())
            assert len(pieces) <= 3 + 1 + 1  # a run cut at both ends of a window, and one wrapped round the source
            slot = end


def test_a_billion_records_need_no_memory():
    order = Order(10**9, 1, streams=16)
    slots = tf.constant([0, 10**9 // 16, 123_456_789_012], tf.int64)
    records = order.records(15, slots).numpy()
    assert ((records >= 0) & (records < 10**9)).all()
    np.testing.assert_array_equal(order.epochs(15, slots).numpy(), (slots.numpy() * 16 + 15) // 10**9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 0}, "between 1 and 2"),
        ({"size": 3, "streams": 4}, "4 streams cannot share 3 records"),
        ({"size": 3, "run_length": 0}, "run_length must be at least 1. Received: 0"),
        ({"size": 3, "seed": -1}, "seed must not be negative. Received: -1"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        Order(**{"seed": 0, **arguments})
