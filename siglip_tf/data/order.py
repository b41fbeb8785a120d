"""Which record comes when: a closed form from a position in training to a record, so that a position is one integer.

A global batch is cut into `streams` equal parts, each drawn by one stream (a worker reads one stream or several). The
slots of all streams together pass through the records epoch by epoch, each record once an epoch with no remainder:
slot `q` of stream `g` belongs to epoch `(q * streams + g) // size`, and a batch may stand across two epochs.

Within an epoch the records are shuffled by a seeded permutation: of single records where the source reads any record
at the same cost; else of runs of neighbouring records, whose records are then shuffled within windows of several
runs, so that remote shards are read in long pieces and a worker holds no more than a window at a time.
"""

import dataclasses

import tensorflow as tf

from siglip_tf.data.permutation import check_size, mix, permute

# Names of the keys that separate the shuffles of one epoch.
_RECORDS, _RUNS, _SHIFT, _WINDOW = range(4)


@dataclasses.dataclass(frozen=True)
class Order:
    """The order of one source's records in training.

    Args:
        size: number of records.
        seed: names the shuffle; each epoch has its own.
        streams: how many streams share an epoch; they end within one slot of each other, for ever.
        run_length: neighbouring records read together (`Source.run_length`).
        window_runs: runs whose records are shuffled among each other, where run_length > 1.
        shuffle: False keeps the source's order.

    Raises:
        ValueError: a size, run length, window or number of streams below one, or more streams than records.
    """

    size: int
    seed: int
    streams: int = 1
    run_length: int = 1
    window_runs: int = 16
    shuffle: bool = True

    def __post_init__(self):
        check_size(self.size, "A source")
        for name in ("streams", "run_length", "window_runs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1. Received: {getattr(self, name)}")
        if self.streams > self.size:
            raise ValueError(f"{self.streams} streams cannot share {self.size} records: use fewer workers or streams.")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative. Received: {self.seed}")

    @property
    def window(self) -> int:
        """Slots of a stream that are read and shuffled together (1 where records are shuffled one by one)."""
        return self.run_length * self.window_runs if self.run_length > 1 and self.shuffle else 1

    def _first_slot(self, stream: int | tf.Tensor, epoch: tf.Tensor) -> tf.Tensor:
        """The first slot of a stream that belongs to an epoch: ceil((epoch * size - stream) / streams)."""
        return (epoch * self.size - stream + self.streams - 1) // self.streams

    def _span(self, stream: int, epoch: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """First slot, number of slots and start in the epoch's sequence of a stream's share of an epoch (m,)."""
        before = tf.zeros_like(epoch)
        for other in range(stream):
            before += self._first_slot(other, epoch + 1) - self._first_slot(other, epoch)
        first = self._first_slot(stream, epoch)
        return first, self._first_slot(stream, epoch + 1) - first, before

    def epochs(self, stream: int, slots: tf.Tensor) -> tf.Tensor:
        """int64 (m,): the epoch that each slot of the stream belongs to."""
        return (tf.cast(slots, tf.int64) * self.streams + stream) // self.size

    def window_start(self, stream: int, slot: tf.Tensor) -> tf.Tensor:
        """int64, like `slot`: the first slot of the window that holds the slot."""
        first, _, _ = self._span(stream, self.epochs(stream, slot))
        return slot - (slot - first) % self.window

    def window_end(self, stream: int, slot: tf.Tensor) -> tf.Tensor:
        """int64, like `slot`: the slot after the window that holds the slot."""
        first, count, _ = self._span(stream, self.epochs(stream, slot))
        return tf.minimum(self.window_start(stream, slot) + self.window, first + count)

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
        first, count, before = self._span(stream, epoch)
        offset = slots - first
        if not self.shuffle:
            return before + offset
        if self.run_length == 1:
            return permute(before + offset, self.size, mix(self.seed, _RECORDS, epoch))
        window = offset // self.window
        start = window * self.window
        inside = permute(
            offset - start,
            tf.minimum(count - start, self.window),
            mix(self.seed, _WINDOW, epoch, stream, window),
        )
        return self.record_at(epoch, before + start + inside)

    def record_at(self, epoch: tf.Tensor, position: tf.Tensor) -> tf.Tensor:
        """The record at a position of the epoch's sequence of runs, before the shuffle within windows.

        The grid of runs starts at another record in each epoch: the tail that fills no run, which stands at the
        epoch's end, is never the same records, nor are a run's neighbours.
        """
        run, inside = position // self.run_length, position % self.run_length
        runs = max(self.size // self.run_length, 1)
        shuffled = permute(tf.minimum(run, runs - 1), runs, mix(self.seed, _RUNS, epoch))
        run = tf.where(run < runs, shuffled, run)
        shift = mix(self.seed, _SHIFT, epoch) % self.size
        return (shift + run * self.run_length + inside) % self.size

    def shuffled_within(self, stream: int, slots: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """For all slots of one window, in order: `(pieces, gather)`, what to read and how to arrange it.

        Args:
            slots: int64 (m,), the slots of exactly one window.

        Returns:
            pieces: int64 (p, 2), start and count of each run of neighbouring records that the window reads.
            gather: int64 (m,): for each slot, its record's number among the records read.
        """
        epoch = self.epochs(stream, slots)
        first, _, before = self._span(stream, epoch)
        positions = before + slots - first
        records = self.record_at(epoch, positions)
        starts_piece = (records[1:] != records[:-1] + 1) | (positions[1:] % self.run_length == 0)
        starts = tf.where(tf.concat([[True], starts_piece], 0))[:, 0]
        size = tf.size(slots, out_type=tf.int64)
        pieces = tf.stack([tf.gather(records, starts), tf.concat([starts[1:], [size]], 0) - starts], axis=1)
        key = mix(self.seed, _WINDOW, epoch, stream, (slots - first) // self.window)
        return pieces, permute(slots - slots[0], size, key)
