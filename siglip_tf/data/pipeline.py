"""Batches for training: seeded and endless, the same sequence after any interruption, every record accounted for."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from siglip_tf.data.images.augmentation import Augmentation
from siglip_tf.data.order.bad_records import BadRecordReport, Cause, Explainer
from siglip_tf.data.order.early_limit import ENDLESS, EarlyLimit, called_at_the_end
from siglip_tf.data.order.mixture import Mixture
from siglip_tf.data.order.position import PositionTracker, check_state, kernel_to_resume, state_of
from siglip_tf.data.order.shares import Share, check_batch_and_seed, own_batches, share_of
from siglip_tf.data.preprocessing import Preprocessing
from siglip_tf.data.reading import EXTRA_FIELDS, KEPT_AT_ONCE, Reading
from siglip_tf.data.sources.base import Source

_as_written = tf.autograph.experimental.do_not_convert

Corruption = Callable[[dict[str, tf.Tensor], tf.Tensor], dict[str, tf.Tensor]]


class TrainingData:
    """A source or mixture as endless training batches, with an exact position.

    Args:
        source: a `Source`, or a `Mixture` of several.
        preprocessing: the model's preprocessing, of both images and texts.
        global_batch: pairs per step, over all workers and replicas.
        seed: determines the order, the choice of captions, and every augmentation.
        streams: number of equal parts of the global batch, each with its own pass through the data. The default is
            the number of workers. A run can continue with any number of workers that divides the number of streams.
        augmentation: random changes to the pictures, or None.
        corruption: `(batch, seed int64 (2,)) -> batch`, applied last, or None.
        deterministic: False lets pairs overtake each other, which is faster if records differ much in cost. A resumed
            run then repeats or misses the pairs that were being read.
        bad_record_limit: how many records may be skipped before training stops with an error: a fraction of the
            records (below 1), or a number of records (1 or more).
        report: path of the JSONL report that names every skipped record, or None. `{worker}` in it becomes the
            worker's number.
        extra_fields: names among "id", "label", "language", "group" that batches carry as well. "group" is always
            included if a source has groups. Accelerators do not accept strings.
        window_bytes: how much of a source with `runs` (remote shards) a stream keeps in memory and shuffles at a time.
        parallel_calls: number of parallel reads, and of parallel decodes, or tf.data.AUTOTUNE.
        prefetch: number of batches kept ready.

    Raises:
        ValueError: an argument out of range, or a preprocessing that lacks images or text.

    Example:
        data = TrainingData(TarSource("shards/*.tar"), model.preprocessing, global_batch=4096, report="bad.jsonl")
        data.restore(state)                       # where the run continues
        model.fit(data.dataset(), steps_per_epoch=1000)
        state = data.state(step=1000)             # plain JSON; save it with the checkpoint
    """

    def __init__(
        self,
        source: Source | Mixture,
        preprocessing: Preprocessing,
        global_batch: int,
        *,
        seed: int = 0,
        streams: int | None = None,
        augmentation: Augmentation | None = None,
        corruption: Corruption | None = None,
        deterministic: bool = True,
        bad_record_limit: float = 0.01,
        report: str | None = None,
        extra_fields: Sequence[str] = (),
        window_bytes: int = 1 << 30,
        parallel_calls: int = tf.data.AUTOTUNE,
        prefetch: int = 2,
    ):
        if preprocessing is None or preprocessing.image is None or preprocessing.text is None:
            raise ValueError("Training data needs a preprocessing of images and of text.")
        check_batch_and_seed(global_batch, seed)
        if bad_record_limit < 0:
            raise ValueError(f"bad_record_limit must not be negative. Received: {bad_record_limit}")
        if unknown := set(extra_fields) - EXTRA_FIELDS.keys():
            raise ValueError(f"extra_fields must be among {sorted(EXTRA_FIELDS)}. Received: {sorted(unknown)}")
        self.mixture = Mixture.of(source)
        self.preprocessing = preprocessing
        self.global_batch = global_batch
        self.seed = seed
        self.streams = streams
        self._augmentation = augmentation
        self._changes_batches = augmentation is not None and augmentation.changes_batches
        self._corruption = corruption
        self._deterministic = deterministic
        self.bad_record_limit = bad_record_limit
        self._report_path = report
        self._extra_fields = tuple(extra_fields)
        if any(source.has_groups for source in self.mixture.sources) and "group" not in self._extra_fields:
            self._extra_fields += ("group",)
        self._window_bytes = window_bytes
        self._parallel_calls = parallel_calls
        self._prefetch = prefetch
        self._image = preprocessing.fixed_image("Training data")
        self._kernel = self._image.resize_kernel
        self._restored: dict[str, Any] | None = None
        self._tracker: PositionTracker | None = None
        self.report: BadRecordReport | None = None

    def restore(self, state: dict[str, Any]) -> None:
        """Restores a saved position: the next `dataset` begins there.

        Args:
            state: what `state` returned. If there are several workers, join their states by `merge_states` first.

        Raises:
            ValueError: the state belongs to another run (its seed or data differ) or has another format, or the run
                resized its pictures by the compiled operation, which this machine cannot build.
        """
        check_state(state, self.seed, self.mixture.fingerprint, self.streams)
        self._kernel = kernel_to_resume(state, self._image.resize_kernel)
        self.streams = state["streams"]
        self._restored = state

    def dataset(self, context: tf.distribute.InputContext | None = None) -> tf.data.Dataset:
        """Returns the endless batches of one worker, from the restored position or from the beginning.

        Args:
            context: as `strategy.distribute_datasets_from_function(data.dataset)` passes it; each batch is then one
                replica's. None means a single worker, whose batches are whole global batches.

        Returns:
            Dataset of `"image"`: uint8 (batch, height, width, 3), which the model normalizes; `"text"`: int32 (batch,
            text_length); and the extra fields, (batch,) each. "group" is int64, at least 0; a record without a group
            is a group of its own. Shapes are static.

        Raises:
            ValueError: the numbers of pairs, streams, workers, and replicas do not divide each other.
        """
        share = share_of(context, self.global_batch, self.streams)
        self.streams = share.all_streams
        reading = Reading(
            self.mixture, self.seed, self.streams, self._extra_fields, self._window_bytes, self._parallel_calls
        )
        self._start(reading, share)
        passed = self._tracker.position(self._first_step, 0)["passed"]
        parts = [self._decoded(reading, stream, passed[str(stream)], share.size) for stream in share.streams]
        pairs = parts[0]
        if len(parts) > 1:
            block = self.global_batch // self.streams
            turns = (
                tf.data.Dataset.range(len(parts))
                .repeat()
                .flat_map(_as_written(lambda part: tf.data.Dataset.from_tensors(part).repeat(block)))
            )
            pairs = tf.data.Dataset.choose_from_datasets(parts, turns)
        batches = pairs.batch(share.size, drop_remainder=True).map(_as_written(self._account))
        if reading.kept is not None:
            batches = batches.map(_as_written(lambda place: reading.kept_pairs(place["record"], place["choice"])))
        first = self._first_step * share.batches
        numbered = tf.data.Dataset.zip(tf.data.Dataset.range(first, ENDLESS), batches)
        worker = share.worker
        batches = numbered.map(
            _as_written(lambda number, batch: self._finish(batch, tf.stack([tf.constant(worker, tf.int64), number]))),
            num_parallel_calls=self._parallel_calls,
        )
        return own_batches(batches, self._prefetch, self._deterministic)

    def state(self, step: int) -> dict[str, Any]:
        """Returns the position after the training loop has consumed `step` global batches.

        The position is plain JSON of a few hundred bytes. Each worker knows its own streams alone; `merge_states`
        joins the positions of several workers.

        Raises:
            ValueError: `dataset` has not been called, or the step is before the restored one.
        """
        if self._tracker is None:
            raise ValueError("The position is not known yet. Call `dataset` first.")
        position = self._tracker.position(step, self.global_batch // self.streams)
        return state_of(self.seed, self.mixture.fingerprint, self.streams, position) | {"resize": self._kernel}

    def accounting(self, step: int) -> dict[str, Any]:
        """Counts this worker's records up to a step: `{"read", "used", "skipped", "by_cause"}`.

        Here read = used + skipped.
        """
        state = self.state(step)
        read, skipped = sum(state["passed"].values()), sum(state["skipped"].values())
        return {"read": read, "used": read - skipped, "skipped": skipped, "by_cause": state["skipped"]}

    def progress(self) -> dict[str, Any]:
        """Counts the records that this worker has read, whether or not the training loop has used them yet.

        Returns:
            `{"passed": records, "skipped": {cause: records}}`.
        """
        if self._tracker is None:
            raise ValueError("There is no progress yet. Call `dataset` first.")
        return self._tracker.progress()

    @property
    def resize_kernel(self) -> str:
        """What resizes the pictures (see `ImagePreprocessing.resize_kernel`). A restored run keeps its first kernel."""
        return self._kernel

    def batch_settings(self) -> dict[str, Any]:
        """Returns, as plain JSON, the settings that change batches besides data, seed, and preprocessing."""
        return {
            "augmentation": None if self._augmentation is None else self._augmentation.get_config(),
            "extra_fields": list(self._extra_fields),
            "window_bytes": self._window_bytes,
        }

    @property
    def _first_step(self) -> int:
        return 0 if self._restored is None else self._restored["step"]

    def _start(self, reading: Reading, share: Share) -> None:
        streams = share.streams
        path = None if self._report_path is None else self._report_path.replace("{worker}", str(share.worker))
        self.report = BadRecordReport(path)

        explain = functools.partial(self._explain, reading, self._deterministic)
        self._tracker = PositionTracker(explain, self.bad_record_limit, self._deterministic)
        if self._restored is None:
            self._tracker.start(0, dict.fromkeys(streams, 0), {})
            return
        passed = self._restored["passed"]
        if missing := [stream for stream in streams if str(stream) not in passed]:
            raise ValueError(
                f"The position does not say where streams {missing} stand. Join the states of all workers by "
                "`merge_states`, or restore each worker's own."
            )
        # `merge_states` adds up the workers' counts, so only one worker may keep the earlier counts.
        skipped = self._restored["skipped"] if share.worker == 0 else {}
        self._tracker.start(self._first_step, {stream: passed[str(stream)] for stream in streams}, skipped)

    def _explain(self, reading: Reading, certain: bool, stream: int, slots: list[int]) -> list[Cause | None]:
        explainer = Explainer(self.report, self._image, certain=certain)
        return [explainer(*reading.locate(stream, slot)) for slot in slots]

    def _decoded(self, reading: Reading, stream: int, slot: int, waiting: int) -> tf.data.Dataset:
        @_as_written
        def decode(pair: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            with tf.control_dependencies([tf.debugging.Assert(pair["caption"] != "", ["No caption to train on."])]):
                data = tf.identity(pair["image"])
            image = self._image.pixels(
                data, self._augmentation, pair["seed"], fused=self._kernel != "tensorflow", note=True
            )
            kept = {key: pair[key] for key in ("caption", "seed", "slot", *self._extra_fields)}
            return {**kept, "image": image, "stream": tf.constant(stream, tf.int64)}

        limit = EarlyLimit(
            self._tracker,
            stream,
            functools.partial(self._explain, reading, False, stream),
            waiting=waiting,
            records=sum(source.size for source in self.mixture.sources),
            parallel_calls=self._parallel_calls if reading.kept is None else 2 * KEPT_AT_ONCE,
        )
        if reading.kept is not None:
            pairs = reading.kept_places(stream, slot, limit.numbers(slot))
            return pairs.concatenate(called_at_the_end(pairs.element_spec, limit.raise_failure))
        # Records that cannot be decoded are left out; `_account` sees from the slots which ones are missing.
        pairs = reading.raw_pairs(stream, slot, limit.numbers(slot))
        pairs = pairs.map(decode, num_parallel_calls=self._parallel_calls).ignore_errors()
        return pairs.concatenate(called_at_the_end(pairs.element_spec, limit.raise_failure))

    def _account(self, batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        tracker = self._tracker

        def note(streams: np.ndarray, slots: np.ndarray) -> np.int64:
            for stream in np.unique(streams):
                tracker.arrived(int(stream), slots[streams == stream].tolist())
            return np.int64(0)

        noted = tf.numpy_function(note, [batch.pop("stream"), batch.pop("slot")], tf.int64)
        with tf.control_dependencies([noted]):
            return {key: tf.identity(value) for key, value in batch.items()}

    def _finish(self, batch: dict[str, tf.Tensor], seed: tf.Tensor) -> dict[str, tf.Tensor]:
        captions, seeds = batch.pop("caption"), batch.pop("seed")
        if self._changes_batches:
            images = self._image.normalize(batch["image"])
            images = self._augmentation.batch(images, captions, self._augmentation.draws(seeds))
            batch["image"] = tf.saturate_cast(tf.round(127.5 * (images + 1.0)), tf.uint8)
        batch["text"] = self.preprocessing.text(captions)
        if self._corruption is not None:
            batch = self._corruption(batch, tf.stack([seed[1], seed[0] + self.seed]))
        return batch


def training_dataset(
    source: Source | Mixture, preprocessing: Preprocessing, global_batch: int, **options: Any
) -> tf.data.Dataset:
    """Returns `TrainingData(...).dataset()`, for a run that keeps no position. Options are `TrainingData`'s."""
    return TrainingData(source, preprocessing, global_batch, **options).dataset()
