"""Reads the pairs of one stream in training order: single records or runs, one caption of each, mixed by weight.

Reading keeps broken records, so that pairs have the same numbers as slots. Decoding (`pipeline`) drops them. The words
stream, slot, run, window, piece, and component are defined in `siglip_tf.data.order`.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from siglip_tf.data.order.early_limit import ENDLESS
from siglip_tf.data.order.mixture import BLOCK, Mixture
from siglip_tf.data.order.record_order import RecordOrder, RunOrder, caption_choices
from siglip_tf.data.sources.base import Source
from siglip_tf.data.sources.groups import NO_GROUP
from siglip_tf.data.sources.kept_pictures import KeptPictures
from siglip_tf.data.text.captions import usable_indices

# The records of this many slots are computed at a time.
_SLOTS = 1024

_PARALLEL_RUNS = 8
# This many slots of kept pairs are looked up at a time.
KEPT_AT_ONCE = 64

# The graph code here has no Python control flow to convert, and the conversion takes a second for each pipeline.
_as_written = tf.autograph.experimental.do_not_convert

# Fields that a training pair may carry besides its image and caption, with their types.
EXTRA_FIELDS = {"id": tf.string, "label": tf.int32, "language": tf.string, "group": tf.int64}
# A record without a group is a group of its own, with a number above those of hashed texts.
_ALONE = 1 << 62


@dataclasses.dataclass(frozen=True)
class Reading:
    """How training reads a mixture.

    Args:
        mixture: the sources.
        seed: determines the order, the mixing, and the choice of captions.
        streams: how many streams share the data (see `siglip_tf.data.order`).
        extra_fields: which of `EXTRA_FIELDS` each pair carries.
        window_bytes: about how many bytes of records are shuffled with each other, if records come in runs.
        parallel_calls: number of parallel reads, or tf.data.AUTOTUNE.
    """

    mixture: Mixture
    seed: int
    streams: int
    extra_fields: Sequence[str] = ()
    window_bytes: int = 1 << 30
    parallel_calls: int = tf.data.AUTOTUNE
    _orders: dict[int, RecordOrder] = dataclasses.field(default_factory=dict, init=False, repr=False, compare=False)

    def order(self, component: int) -> RecordOrder:
        """Returns the order of one source of the mixture. It is made once, since it may hold many shards' borders."""
        if component not in self._orders:
            self._orders[component] = self._new_order(component)
        return self._orders[component]

    def _new_order(self, component: int) -> RecordOrder:
        source = self.mixture.sources[component]
        seed = (self.seed << 10) + component
        if source.runs is None:
            return RecordOrder(source.size, seed, self.streams)
        run_bytes = source.record_bytes * source.size / (len(source.runs) - 1)
        return RunOrder(source.runs, max(1, int(self.window_bytes // run_bytes)), seed, self.streams)

    def locate(self, stream: int, slot: int) -> tuple[Source, int]:
        """Returns the source, and the index in it, of the record in a slot of a stream."""
        component, own_slot = self.mixture.component_at(self.seed, stream, slot)
        return self.mixture.sources[component], int(self.order(component).records(stream, [own_slot])[0])

    def raw_pairs(self, stream: int, slot: int, numbers: tf.data.Dataset | None = None) -> tf.data.Dataset:
        """Returns the pairs of a stream in order, starting at a slot.

        Args:
            stream: the stream's number.
            slot: the first slot.
            numbers: the numbers of the slots, int64 scalars from `slot` on. The pairs end where they end. None gives
                endless pairs.

        Returns:
            Dataset of `"image"`: string scalar, the encoded image; `"caption"`: string scalar, one of the image's
            captions, or `""` if the image has no caption or one that is not UTF-8; `"slot"`: int64 scalar; `"seed"`:
            int64 (2,), the seed of this pair in this epoch; and the extra fields.
        """
        starts = self.mixture.component_slots(self.seed, stream, slot).tolist()
        parts = [self._component(component, stream, start) for component, start in enumerate(starts)]
        if len(parts) == 1:
            pairs = parts[0]
        else:
            block, inside = divmod(slot, BLOCK)
            choices = _computed(block, lambda number: [self.mixture.components(self.seed, stream, number)], 1)
            choices = choices.flat_map(_as_written(tf.data.Dataset.from_tensor_slices)).skip(inside)
            pairs = tf.data.Dataset.choose_from_datasets(parts, choices)
        numbered = tf.data.Dataset.zip(numbers or tf.data.Dataset.range(slot, ENDLESS), pairs)
        return numbered.map(_as_written(lambda number, pair: {**pair, "slot": number}))

    def _component(self, component: int, stream: int, slot: int) -> tf.data.Dataset:
        source, order = self.mixture.sources[component], self.order(component)
        if isinstance(order, RunOrder):
            return self._by_windows(source, order, stream, slot)

        @_as_written
        def read(record: tf.Tensor, choice: tf.Tensor) -> dict[str, tf.Tensor]:
            return self._pair(source, source.read(record), record, choice)

        # Reading keeps the order even if decoding does not, because slots are numbered after this.
        places = self._places(order, stream, slot)
        return places.map(read, num_parallel_calls=self.parallel_calls, deterministic=True)

    def _places(self, order: RecordOrder, stream: int, slot: int) -> tf.data.Dataset:
        """Returns, for each slot from `slot` on, the record and the number that chooses its caption: int64 scalars."""

        def locate(block: int) -> list[np.ndarray]:
            slots = slot + np.arange(block * _SLOTS, (block + 1) * _SLOTS)
            records = order.records(stream, slots)
            return [records, caption_choices(self.seed, order.epochs(stream, slots), records)]

        blocks = _computed(0, locate, 2)
        return blocks.flat_map(_as_written(lambda *arrays: tf.data.Dataset.from_tensor_slices(arrays)))

    @property
    def kept(self) -> KeptPictures | None:
        """The only source, if its pairs lie in memory, or None. `kept_places` and `kept_pairs` read such a source."""
        sources = self.mixture.sources
        return sources[0] if len(sources) == 1 and isinstance(sources[0], KeptPictures) else None

    def kept_places(self, stream: int, slot: int, numbers: tf.data.Dataset) -> tf.data.Dataset:
        """Returns where the sound pairs of a stream lie, in order from a slot on. Arguments are those of `raw_pairs`.

        Returns:
            Dataset of int64 scalars: `"slot"`, `"stream"`, `"record"`, and `"choice"`: the number that chooses the
            caption.
        """
        source = self.kept

        @_as_written
        def sound(slots: tf.Tensor, places: tuple[tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
            records, choices = places
            kept = tf.ensure_shape(tf.numpy_function(source.sound, [records], tf.bool), [None])
            streams = tf.fill(tf.shape(slots), tf.constant(stream, tf.int64))
            found = {"slot": slots, "stream": streams, "record": records, "choice": choices}
            return {name: tf.boolean_mask(values, kept) for name, values in found.items()}

        places = tf.data.Dataset.zip(numbers, self._places(self.order(0), stream, slot))
        return places.batch(KEPT_AT_ONCE).map(sound).unbatch()

    def kept_pairs(self, records: tf.Tensor, choices: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns, in the graph, the pairs that `kept_places` found.

        Args:
            records: int64 (n,).
            choices: int64 (n,).

        Returns:
            The entries of `raw_pairs` as (n, ...), but `"image"` is uint8 (n, size, size, 3) and there is no `"slot"`.
        """
        pairs = self.kept.pairs(records, choices, self.extra_fields)
        if "group" in pairs:
            pairs["group"] = self._group(self.kept, pairs["group"], records)
        return {**pairs, "seed": tf.stack([choices, records], axis=-1)}

    def _group(self, source: Source, group: tf.Tensor, record: tf.Tensor) -> tf.Tensor:
        """Gives each record that has no group a group number of its own."""
        alone = _ALONE + (self.mixture.sources.index(source) << 48) + record
        return tf.where(group == NO_GROUP, alone, group)

    def _by_windows(self, source: Source, order: RunOrder, stream: int, slot: int) -> tf.data.Dataset:
        def window(begin: np.int64) -> list[np.ndarray]:
            found = order.window(stream, int(begin))
            choices = caption_choices(self.seed, order.epochs(stream, begin), found.records_read())
            return [np.asarray(found.end, np.int64), found.pieces, found.gather[begin - found.first :], choices]

        @_as_written
        def next_window(begin: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, tuple[tf.Tensor, ...]]:
            end, pieces, gather, choices = tf.numpy_function(window, [begin], [tf.int64] * 4)
            shapes = ([None, 2], [None], [None])
            parts = tuple(tf.ensure_shape(v, s) for v, s in zip((pieces, gather, choices), shapes, strict=True))
            return tf.ensure_shape(end, []), parts

        @_as_written
        def load(pieces: tf.Tensor, gather: tf.Tensor, choices: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
            starts = tf.cumsum(pieces[:, 1], exclusive=True)
            runs = tf.data.Dataset.from_tensor_slices((pieces, starts)).map(
                _as_written(lambda piece, at: self._run(source, piece[0], piece[1], choices[at : at + piece[1]])),
                num_parallel_calls=_PARALLEL_RUNS,
                deterministic=True,
            )
            return runs.unbatch().batch(tf.size(choices, tf.int64)).get_single_element(), gather

        @_as_written
        def arrange(window: dict[str, tf.Tensor], gather: tf.Tensor) -> tf.data.Dataset:
            return tf.data.Dataset.from_tensor_slices(gather).map(
                _as_written(lambda number: {key: values[number] for key, values in window.items()})
            )

        windows = tf.data.Dataset.range(ENDLESS).scan(tf.constant(slot, tf.int64), next_window)
        # Load one window while another is used.
        return windows.map(load).prefetch(1).flat_map(arrange)

    def _run(self, source: Source, start: tf.Tensor, count: tf.Tensor, choices: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns all pairs of a piece of a run, (count, ...) each; blank pairs if it cannot be read."""

        @_as_written
        def read(start: tf.Tensor, count: tf.Tensor) -> dict[str, tf.Tensor]:
            records = tf.data.Dataset.range(start, start + count)
            numbered = tf.data.Dataset.zip(
                source.read_run(start, count), records, tf.data.Dataset.from_tensor_slices(choices)
            )
            pairs = numbered.map(
                _as_written(lambda example, record, choice: self._pair(source, example, record, choice))
            )
            return pairs.batch(count, drop_remainder=True).get_single_element()

        types = {"image": tf.string, "caption": tf.string, **{key: EXTRA_FIELDS[key] for key in self.extra_fields}}
        blank = {key: tf.zeros([count], dtype) for key, dtype in types.items()}
        blank["seed"] = tf.zeros([count, 2], tf.int64)
        tried = tf.data.Dataset.from_tensors((start, count)).map(read).ignore_errors()
        return tried.concatenate(tf.data.Dataset.from_tensors(blank)).take(1).get_single_element()

    def _pair(self, source: Source, example: dict, record: tf.Tensor, choice: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns an example with one of its captions."""
        captions = tf.ensure_shape(example["captions"], [None])
        usable = usable_indices(captions)
        count = tf.size(usable, out_type=tf.int64)
        number = tf.concat([usable, [tf.size(captions, out_type=tf.int64)]], 0)[choice % tf.maximum(count, 1)]

        def chosen(values: tf.Tensor) -> tf.Tensor:
            return tf.concat([values, [""]], 0)[number]

        pair = {
            "image": tf.ensure_shape(example["image"], []),
            "caption": chosen(captions),
            "seed": tf.stack([choice, record]),
        }
        for field in self.extra_fields:
            if field == "group":
                group = tf.ensure_shape(example.get("group", tf.constant(NO_GROUP, tf.int64)), [])
                pair["group"] = self._group(source, group, record)
                continue
            if field not in example:
                raise ValueError(f"{source.name} has no {field!r}. Its examples hold {sorted(example)}.")
            pair[field] = chosen(example[field]) if field == "language" else example[field]
        return pair


def in_order(source: Source, start: int, stop: int) -> tf.data.Dataset:
    """Returns the records `start` to `stop` of a source in its own order, run by run if it has runs.

    Returns:
        Dataset of `(index, raw example)`. A record that cannot be read raises an error; `ignore_errors` skips it.
    """
    if source.runs is None:
        return _one_by_one(source, tf.data.Dataset.range(start, stop))
    borders = np.unique(np.clip(source.runs, start, stop))
    return _by_pieces(source, np.stack([borders[:-1], np.diff(borders)], axis=1))


def some_in_order(source: Source, count: int, seed: int) -> tuple[tf.data.Dataset, np.ndarray]:
    """Draws a random sample of `count` records of a source, or of whole runs if it has runs, in the source's order.

    Returns:
        A data set like `in_order`'s, and the indices of its records, int64 (m,).
    """
    if source.runs is None:
        chosen = np.sort(RecordOrder(source.size, seed).records(0, np.arange(min(count, source.size))))
        return _one_by_one(source, tf.data.Dataset.from_tensor_slices(chosen)), chosen
    lengths = np.diff(source.runs)
    drawn = RecordOrder(len(lengths), seed).records(0, np.arange(len(lengths)))
    runs = np.sort(drawn[: int(np.searchsorted(np.cumsum(lengths[drawn]), count)) + 1])
    pieces = np.stack([source.runs[:-1][runs], lengths[runs]], axis=1)
    return _by_pieces(source, pieces), np.concatenate([np.arange(first, first + n) for first, n in pieces])


def _one_by_one(source: Source, indices: tf.data.Dataset) -> tf.data.Dataset:
    return indices.map(_as_written(lambda index: (index, source.read(index))), tf.data.AUTOTUNE, deterministic=True)


def _by_pieces(source: Source, pieces: np.ndarray) -> tf.data.Dataset:
    """Reads the pieces of runs; `pieces` is int64 (p, 2), the start and the count of each."""
    return tf.data.Dataset.from_tensor_slices(pieces).flat_map(
        _as_written(
            lambda piece: tf.data.Dataset.zip(
                tf.data.Dataset.range(piece[0], piece[0] + piece[1]), source.read_run(piece[0], piece[1])
            )
        )
    )


def _computed(start: int, compute: Callable[[int], list[np.ndarray]], outputs: int) -> tf.data.Dataset:
    """Returns an endless data set of `compute(start)`, `compute(start + 1)`, ...: int64 (m,) arrays from Python."""

    @_as_written
    def element(number: tf.Tensor) -> tuple[tf.Tensor, ...]:
        arrays = tf.numpy_function(lambda n: compute(int(n)), [number], [tf.int64] * outputs)
        arrays = tuple(tf.ensure_shape(array, [None]) for array in arrays)
        return arrays if outputs > 1 else arrays[0]

    return tf.data.Dataset.range(start, ENDLESS).map(element)
