"""Which record comes when: a closed form from a position in training to a record, so that a position is one integer.

A global batch is cut into `streams` equal parts, each drawn by one stream (a worker reads one stream or several). The
slots of all streams together pass through the records epoch by epoch, each record once an epoch with no remainder:
slot `q` of stream `g` belongs to epoch `(q * streams + g) // size`, and a batch may stand across two epochs.

Within an epoch a seeded permutation shuffles single records (`RecordOrder`) or, where records are read by runs, the
runs, and then records within windows of several runs (`RunOrder`), so that remote shards are read in one piece.
"""

import numpy as np
import tensorflow as tf

from siglip_tf.data.permutation import MAX_SIZE, mix, permute

# Keys that separate the shuffles of one epoch.
_RECORDS, _RUNS, _WINDOW = range(3)


class RecordOrder:
    """The order of records that can be read one by one at the same cost.

    Args:
        size: number of records.
        seed: names the shuffle; each epoch has its own.
        streams: how many streams share an epoch; they end within one slot of each other, for ever.
        shuffle: False keeps the source's order.

    Raises:
        ValueError: no records, no streams, more streams than records, or a negative seed.
    """

    def __init__(self, size: int, seed: int, streams: int = 1, shuffle: bool = True):
        if not 1 <= size <= MAX_SIZE:
            raise ValueError(f"A source must hold between 1 and 2^62 records. Received: {size}")
        if not 1 <= streams <= size:
            raise ValueError(
                f"streams must lie between 1 and the {size} records that they share. Received: {streams}. "
                "Use fewer workers or streams."
            )
        if seed < 0:
            raise ValueError(f"seed must not be negative. Received: {seed}")
        self.size = size
        self.seed = seed
        self.streams = streams
        self.shuffle = shuffle

    def epochs(self, stream: int, slots: tf.Tensor) -> tf.Tensor:
        """int64 like `slots`: the epoch that each slot of the stream belongs to."""
        return (tf.cast(slots, tf.int64) * self.streams + stream) // self.size

    def _first_slot(self, stream: int, epoch: tf.Tensor) -> tf.Tensor:
        """The first slot of a stream that belongs to an epoch: ceil((epoch * size - stream) / streams)."""
        return (epoch * self.size - stream + self.streams - 1) // self.streams

    def share(self, stream: int, epoch: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """A stream's share of an epoch: its first slot, its number of slots, its start in the epoch's sequence."""
        start = tf.zeros_like(epoch)
        for other in range(stream):
            start += self._first_slot(other, epoch + 1) - self._first_slot(other, epoch)
        first = self._first_slot(stream, epoch)
        return first, self._first_slot(stream, epoch + 1) - first, start

    def records(self, stream: int, slots: tf.Tensor) -> tf.Tensor:
        """The record in each slot.

        Args:
            stream: which stream, in [0, streams).
            slots: int64 (m,), each >= 0.

        Returns:
            int64 (m,), each in [0, size).
        """
        slots = tf.cast(slots, tf.int64)
        epoch = self.epochs(stream, slots)
        first, _, start = self.share(stream, epoch)
        position = start + slots - first
        return permute(position, self.size, mix(self.seed, _RECORDS, epoch)) if self.shuffle else position


class RunOrder(RecordOrder):
    """The order of records that are read by runs.

    Args:
        runs: int64 (runs + 1,), the borders of the runs (`Source.runs`).
        window_runs: how many runs make a window, whose records are shuffled among each other.
        seed: as `RecordOrder`'s.
        streams: as `RecordOrder`'s.
        shuffle: False keeps the source's order.

    Raises:
        ValueError: as `RecordOrder`, and for borders that do not rise from 0.
    """

    def __init__(self, runs: np.ndarray, window_runs: int, seed: int, streams: int = 1, shuffle: bool = True):
        runs = np.asarray(runs, np.int64)
        lengths = np.diff(runs)
        if len(runs) < 2 or runs[0] != 0 or lengths.min() < 1:
            raise ValueError(f"runs must be borders that rise from 0. Received: {runs}")
        if window_runs < 1:
            raise ValueError(f"window_runs must be at least 1. Received: {window_runs}")
        super().__init__(int(runs[-1]), seed, streams, shuffle)
        self.window_runs = window_runs
        self._runs = runs
        self._lengths = lengths

    def _sequence(self, epoch: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The epoch's runs in order (runs,), and the borders (runs + 1,) they make in its sequence."""
        order = tf.range(len(self._lengths), dtype=tf.int64)
        if self.shuffle:
            order = permute(order, len(self._lengths), mix(self.seed, _RUNS, epoch))
        return order, tf.concat([[0], tf.cumsum(tf.gather(tf.constant(self._lengths), order))], 0)

    def window(self, stream: int, slot: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        """What to read, and how to arrange it, for the window that holds a slot.

        Args:
            stream: which stream, in [0, streams).
            slot: int64 scalar, >= 0.

        Returns:
            first, end: int64 scalars, the window's first slot and the one after its last.
            pieces: int64 (p, 2), start and count of the neighbouring records to read, each within a run.
            gather: int64 (end - first,): for each slot in turn, its record's number among the records read.
        """
        slot = tf.cast(slot, tf.int64)
        epoch = self.epochs(stream, slot)
        first, count, start = self.share(stream, epoch)
        order, borders = self._sequence(epoch)
        rank = tf.searchsorted(borders, (start + slot - first)[None], side="right", out_type=tf.int64)[0] - 1
        window = rank // self.window_runs
        runs = tf.size(order, out_type=tf.int64)
        ranks = tf.range(window * self.window_runs, tf.minimum((window + 1) * self.window_runs, runs))
        # A window at the border of two streams' shares is cut there.
        begin = tf.maximum(tf.gather(borders, ranks), start)
        end = tf.minimum(tf.gather(borders, ranks + 1), start + count)
        read = end > begin
        into_run = begin - tf.gather(borders, ranks)
        pieces = tf.stack([tf.gather(tf.constant(self._runs), tf.gather(order, ranks)) + into_run, end - begin], axis=1)
        size = tf.reduce_sum(tf.boolean_mask(end - begin, read))
        gather = tf.range(size)
        if self.shuffle:
            gather = permute(gather, size, mix(self.seed, _WINDOW, epoch, stream, window))
        first = first + tf.reduce_min(tf.boolean_mask(begin, read)) - start
        return first, first + size, tf.boolean_mask(pieces, read), gather

    def records(self, stream: int, slots: tf.Tensor) -> tf.Tensor:
        """As `RecordOrder.records`; for a few slots, since each asks for its window."""

        def record(slot: tf.Tensor) -> tf.Tensor:
            first, _, pieces, gather = self.window(stream, slot)
            number = gather[slot - first]
            borders = tf.concat([[0], tf.cumsum(pieces[:, 1])], 0)
            piece = tf.searchsorted(borders, number[None], side="right", out_type=tf.int64)[0] - 1
            return pieces[piece, 0] + number - borders[piece]

        return tf.map_fn(record, tf.cast(slots, tf.int64))
