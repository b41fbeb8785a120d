"""Batches for evaluation: every sound record of a source once, in the source's order. Broken records are counted."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from siglip_tf.data.order.bad_records import BadRecordReport, Cause, Explainer
from siglip_tf.data.order.early_limit import EarlyLimit, called_at_the_end
from siglip_tf.data.order.position import PositionTracker
from siglip_tf.data.preprocessing import Preprocessing
from siglip_tf.data.reading import in_order
from siglip_tf.data.sources.base import Source
from siglip_tf.data.text.captions import usable_indices

FIELDS = ("id", "label", "language", "captions")
REMAINDERS = ("keep", "pad", "drop")

_as_written = tf.autograph.experimental.do_not_convert


class EvaluationData:
    """Batches of a source for evaluation: one pass, in order.

    Args:
        source: the records to evaluate on.
        preprocessing: the model's preprocessing. Without a tokenizer, batches have no "text".
        batch: records per batch, on each worker.
        remainder: what to do with the last, smaller batch. "keep" keeps it; "pad" repeats its first record and adds a
            "mask" that says which rows count; "drop" drops it.
        bad_record_limit: see `TrainingData`.
        report: see `TrainingData`.
        extra_fields: names among "id", "label", "language", "captions"; the last two are ragged (batch, captions).

    Raises:
        ValueError: an argument out of range, or a preprocessing without images.
    """

    def __init__(
        self,
        source: Source,
        preprocessing: Preprocessing,
        batch: int,
        *,
        remainder: str = "keep",
        bad_record_limit: float = 0.01,
        report: str | None = None,
        extra_fields: Sequence[str] = (),
    ):
        if preprocessing is None or preprocessing.image is None:
            raise ValueError("Evaluation data needs a preprocessing of images.")
        if batch < 1:
            raise ValueError(f"batch must be at least 1. Received: {batch}")
        if remainder not in REMAINDERS:
            raise ValueError(f"remainder must be one of {REMAINDERS}. Received: {remainder!r}")
        if unknown := set(extra_fields) - {*FIELDS}:
            raise ValueError(f"extra_fields must be among {FIELDS}. Received: {sorted(unknown)}")
        self.source = source
        self.preprocessing = preprocessing
        self.batch = batch
        self._image = preprocessing.fixed_image("Evaluation data")
        self._remainder = remainder
        self._limit = bad_record_limit
        self._report_path = report
        self._extra_fields = tuple(extra_fields)
        self.report: BadRecordReport | None = None
        self._tracker: PositionTracker | None = None
        self._span = range(0)

    def dataset(self, context: tf.distribute.InputContext | None = None) -> tf.data.Dataset:
        """Returns the batches of one worker. If there are several workers, each reads its own part of the records.

        Args:
            context: as `strategy.distribute_datasets_from_function(data.dataset)` passes it. None is a single worker.

        Returns:
            Dataset of `"image"`: uint8 (batch, height, width, 3), which the model normalizes; `"text"`: int32 (batch,
            text_length), the first caption; `"mask"`: bool (batch,) with remainder "pad"; and the extra fields.
        """
        worker, workers = (0, 1) if context is None else (context.input_pipeline_id, context.num_input_pipelines)
        size = self.source.size
        self._span = range(worker * size // workers, (worker + 1) * size // workers)
        path = None if self._report_path is None else self._report_path.replace("{worker}", str(worker))
        self.report = BadRecordReport(path)

        def explain(certain: bool, records: list[int]) -> list[Cause | None]:
            explainer = Explainer(self.report, self._image, certain)
            return [explainer(self.source, record) for record in records]

        self._tracker = PositionTracker(lambda _, records: explain(True, records), self._limit)
        self._tracker.start(0, {0: self._span.start}, {})
        span = self._span
        limit = EarlyLimit(
            self._tracker,
            0,
            functools.partial(explain, False),
            waiting=self.batch,
            records=len(span),
            stop=span.stop,
        )
        records = tf.data.Dataset.zip(limit.numbers(span.start), in_order(self.source, span.start, span.stop))
        decoded = records.map(_as_written(self._decode), tf.data.AUTOTUNE, deterministic=True)
        batches = decoded.ignore_errors().ragged_batch(self.batch)
        batches = batches.map(_as_written(self._account))

        def end() -> None:
            # Every record that has not arrived by now is broken: those after the last sound one or after a failure.
            limit.raise_failure()
            self._tracker.finished(0, span.stop)

        batches = batches.concatenate(called_at_the_end(batches.element_spec, end))
        if self._remainder == "drop":
            batches = batches.filter(_as_written(lambda batch: tf.size(batch["record"]) == self.batch))
        return batches.map(_as_written(self._finish), tf.data.AUTOTUNE, deterministic=True).prefetch(2)

    def accounting(self) -> dict[str, Any]:
        """Counts the records of a data set that has been read to its end.

        Returns:
            `{"read", "used", "skipped", "by_cause"}`, where read = used + skipped.

        Raises:
            ValueError: `dataset` has not been called.
        """
        if self._tracker is None:
            raise ValueError("The counts are not known yet. Call `dataset` and read it to its end first.")
        skipped = self._tracker.skipped(0)
        total = sum(skipped.values())
        read = self._tracker.frontier(0) - self._span.start
        return {"read": read, "used": read - total, "skipped": total, "by_cause": skipped}

    def _decode(self, _: tf.Tensor, numbered: tuple[tf.Tensor, dict[str, tf.Tensor]]) -> dict[str, tf.Tensor]:
        record, example = numbered
        captions = tf.ensure_shape(example["captions"], [None])
        usable = usable_indices(captions)
        with tf.control_dependencies(
            [tf.debugging.Assert(tf.size(usable) > 0, ["No caption, or one that is not UTF-8."])]
        ):
            data = tf.identity(example["image"])
        decoded = {
            "image": self._image.pixels(data, fused=True),
            "captions": tf.gather(captions, usable),
            "record": record,
        }
        for field in self._extra_fields:
            if field not in example:
                raise ValueError(f"{self.source.name} has no {field!r}. Its examples hold {sorted(example)}.")
            if field != "captions":
                value = example[field]
                decoded[field] = tf.gather(value, usable) if field == "language" else value
        return decoded

    def _account(self, batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        tracker = self._tracker

        def note(records: np.ndarray) -> np.int64:
            tracker.arrived(0, records.tolist())
            return np.int64(0)

        noted = tf.numpy_function(note, [batch["record"]], tf.int64)
        with tf.control_dependencies([noted]):
            return {**batch, "record": tf.identity(batch["record"])}

    def _finish(self, batch: dict[str, Any]) -> dict[str, Any]:
        batch = dict(batch)
        captions = batch.pop("captions")
        del batch["record"]
        if self.preprocessing.text is not None:
            batch["text"] = self.preprocessing.text(captions[:, :1].flat_values)
        if "captions" in self._extra_fields:
            batch["captions"] = captions
        if self._remainder == "pad":
            rows = tf.shape(batch["image"])[0]
            repeated = tf.where(tf.range(self.batch) < rows, tf.range(self.batch), 0)
            batch = {key: tf.gather(value, repeated) for key, value in batch.items()}
            batch["mask"] = tf.range(self.batch) < rows
        if self._remainder != "keep":
            batch = {
                key: value
                if isinstance(value, tf.RaggedTensor)
                else tf.ensure_shape(value, [self.batch, *value.shape[1:]])
                for key, value in batch.items()
            }
        return batch
