"""The order of records: a closed formula from a slot to a record, so that a position is one integer per stream.

A global batch is divided into `streams` equal parts, one for each stream (a worker reads one stream or several).
Together the streams pass through the records epoch by epoch, each record exactly once per epoch. Slot `q` of stream `g`
belongs to epoch `(q * streams + g) // size`, and a batch may span two epochs.

Within an epoch, a seeded permutation shuffles single records (`RecordOrder`). If records are read in runs, it shuffles
the runs, and then the records within windows of several runs (`RunOrder`), so that each remote shard is read whole.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from siglip_tf.data.order.permutation import MAX_SIZE, mix, permute

# Keys that separate the shuffles of one epoch, and the choice of captions. Mixtures use 3.
_RECORDS, _RUNS, _WINDOW = range(3)
_CAPTION = 4


def caption_choices(seed: int, epochs: ArrayLike, records: ArrayLike) -> np.ndarray:
    """Returns a number for each record in each epoch, which chooses one of its captions.

    Args:
        seed: the seed of the training data.
        epochs: integers, scalar or (m,).
        records: integers (m,).

    Returns:
        int64 (m,), >= 0.
    """
    return (mix(seed, _CAPTION, epochs, records) >> np.uint64(1)).astype(np.int64)


class RecordOrder:
    """The order of records that can be read one by one at the same cost.

    Args:
        size: number of records.
        seed: determines the shuffle, which differs in each epoch.
        streams: how many streams share an epoch. Their shares differ by at most one slot.
        shuffle: False keeps the source's order.

    Raises:
        ValueError: there are no records, no streams, or more streams than records, or the seed is negative.
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

    def epochs(self, stream: int, slots: ArrayLike) -> np.ndarray:
        """Returns the epoch that each slot of the stream belongs to, int64, shaped like `slots`."""
        return (np.asarray(slots, np.int64) * self.streams + stream) // self.size

    def _first_slot(self, stream: int, epoch: ArrayLike) -> np.ndarray:
        """Returns a stream's first slot in an epoch: ceil((epoch * size - stream) / streams)."""
        return (np.asarray(epoch) * self.size - stream + self.streams - 1) // self.streams

    def share(self, stream: int, epoch: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns a stream's share of an epoch: its first slot, its length, and its start in the epoch's sequence."""
        before = [self._first_slot(s, np.asarray(epoch) + 1) - self._first_slot(s, epoch) for s in range(stream)]
        first = self._first_slot(stream, epoch)
        start = np.asarray(np.sum(before, axis=0, dtype=np.int64))
        return first, self._first_slot(stream, np.asarray(epoch) + 1) - first, start

    def records(self, stream: int, slots: ArrayLike) -> np.ndarray:
        """Returns the record in each slot.

        Args:
            stream: the stream's number, in [0, streams).
            slots: int64 (m,), each >= 0.

        Returns:
            int64 (m,), each in [0, size).
        """
        slots = np.asarray(slots, np.int64)
        epoch = self.epochs(stream, slots)
        first, _, start = self.share(stream, epoch)
        position = start + slots - first
        return permute(position, self.size, mix(self.seed, _RECORDS, epoch)) if self.shuffle else position


class Window(NamedTuple):
    """Neighboring slots of a stream, in one epoch, whose records are read together.

    Attributes:
        first: the first slot.
        end: the slot after the last one.
        pieces: int64 (p, 2), start and count of the neighboring records to read. Each piece lies within a run.
        gather: int64 (end - first,), for each slot, the number of its record in reading order.
    """

    first: int
    end: int
    pieces: np.ndarray
    gather: np.ndarray

    def records_read(self) -> np.ndarray:
        """Returns int64 (end - first,): the records in reading order."""
        return np.concatenate([np.arange(start, start + count) for start, count in self.pieces])


class RunOrder(RecordOrder):
    """The order of records that are read in runs.

    Args:
        runs: int64 (runs + 1,), the borders of the runs (`Source.runs`).
        window_runs: how many runs make a window, whose records are shuffled together.
        seed: see `RecordOrder`.
        streams: see `RecordOrder`.
        shuffle: False keeps the source's order.

    Raises:
        ValueError: the borders do not rise from 0, or an argument that `RecordOrder` refuses.
    """

    def __init__(self, runs: ArrayLike, window_runs: int, seed: int, streams: int = 1, shuffle: bool = True):
        runs = np.asarray(runs, np.int64)
        if len(runs) < 2 or runs[0] != 0 or np.diff(runs).min() < 1:
            raise ValueError(f"runs must be borders that rise from 0. Received: {runs}")
        if window_runs < 1:
            raise ValueError(f"window_runs must be at least 1. Received: {window_runs}")
        super().__init__(int(runs[-1]), seed, streams, shuffle)
        self.window_runs = window_runs
        self._runs = runs
        # The cost of an epoch's sequence grows with the number of runs, and every window needs it, so it is kept.
        self._sequences: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def _sequence(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the epoch's runs in order (runs,), and their borders (runs + 1,) in the epoch's sequence."""
        kept = self._sequences
        if epoch not in kept:
            # This is a single assignment, because several threads may compute the same result at the same time.
            self._sequences = kept = {**dict([*kept.items()][-1:]), epoch: self._new_sequence(epoch)}
        return kept[epoch]

    def _new_sequence(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        order = np.arange(len(self._runs) - 1)
        if self.shuffle:
            order = permute(order, len(order), mix(self.seed, _RUNS, epoch))
        return order, np.concatenate([[0], np.cumsum(np.diff(self._runs)[order])])

    def window(self, stream: int, slot: int) -> Window:
        """Returns the window that holds a slot of a stream."""
        epoch = int(self.epochs(stream, slot))
        first, count, start = map(int, self.share(stream, epoch))
        order, borders = self._sequence(epoch)
        window = (int(np.searchsorted(borders, start + slot - first, side="right")) - 1) // self.window_runs
        ranks = np.arange(window * self.window_runs, min((window + 1) * self.window_runs, len(order)))
        # A window that crosses the border between two streams' shares is divided there.
        begin = np.maximum(borders[ranks], start)
        end = np.minimum(borders[ranks + 1], start + count)
        pieces = np.stack([self._runs[order[ranks]] + begin - borders[ranks], end - begin], axis=1)[end > begin]
        size = int(pieces[:, 1].sum())
        gather = np.arange(size)
        if self.shuffle:
            gather = permute(gather, size, mix(self.seed, _WINDOW, epoch, stream, window))
        first += int(begin[end > begin][0]) - start
        return Window(first, first + size, pieces, gather)

    def records(self, stream: int, slots: ArrayLike) -> np.ndarray:
        """Returns the record in each slot, like `RecordOrder.records`."""
        records: list[int] = []
        window = None
        for slot in np.asarray(slots, np.int64).tolist():
            if window is None or not window.first <= slot < window.end:
                window = self.window(stream, slot)
                read = window.records_read()
            records.append(read[window.gather[slot - window.first]])
        return np.array(records, np.int64)
