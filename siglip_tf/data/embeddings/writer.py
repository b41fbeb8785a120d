"""Runs a frozen image tower over a source and stores its embeddings. A killed run resumes at the missing shards."""

import dataclasses
import functools
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from siglip_tf.data.embeddings.stored import (
    DTYPES,
    MANIFEST,
    StoredEmbeddings,
    differences,
    identity,
    read_shard,
    shard_name,
    write_shard,
)
from siglip_tf.data.order.bad_records import BadRecordReport, Cause, Explainer, TooManyBadRecordsError
from siglip_tf.data.order.early_limit import EarlyLimit, called_at_the_end
from siglip_tf.data.order.position import PositionTracker
from siglip_tf.data.preprocessing import Preprocessing
from siglip_tf.data.reading import in_order
from siglip_tf.data.sources.base import Source
from siglip_tf.data.text.captions import usable_captions
from siglip_tf.storage import sweep, write_file

# A run ends without waiting for the end of a shard if a larger fraction of its records is broken.
_MOSTLY_BROKEN = 0.5


@dataclasses.dataclass
class Progress:
    """The progress of a run: this worker's records, done and total, and its speed since the start."""

    done: int
    total: int
    images_per_second: float
    seconds_left: float


class EmbeddingWriter:
    """Writes stored embeddings of a source.

    Args:
        folder: where to write, local or remote. If it holds some shards of the same run, the run resumes.
        source: the images and captions.
        preprocessing: the tower's preprocessing, of images and texts.
        encode: maps uint8 pixels (batch_size, size, size, 3) to l2-normalized embeddings (batch_size, embed_dim).
        tower: `tower_fingerprint` of the tower's weights.
        embed_dim: width of the embeddings.
        dtype: "float16", "bfloat16" or "float32".
        batch_size: images passed to `encode` at a time; the last batch is padded.
        shard_records: records of the source in each shard.
        worker: which of `workers` processes this is; they share the shards, and the last one to finish
            completes the manifest.
        bad_record_limit: the fraction of a shard's records that may be broken; more raises an error.
        report: path of the JSONL report that names every skipped record, or None.

    Raises:
        ValueError: an argument out of range, or a folder that holds embeddings of another tower, preprocessing, or
            source.
    """

    def __init__(
        self,
        folder: str,
        source: Source,
        preprocessing: Preprocessing,
        encode: Callable[[tf.Tensor], Any],
        *,
        tower: str,
        embed_dim: int,
        dtype: str = "float16",
        batch_size: int = 256,
        shard_records: int = 16_384,
        worker: int = 0,
        workers: int = 1,
        bad_record_limit: float = 0.01,
        report: str | None = None,
    ):
        if preprocessing is None or preprocessing.image is None or preprocessing.text is None:
            raise ValueError("Stored embeddings need a preprocessing of images and of text.")
        if not 0 <= worker < workers:
            raise ValueError(f"worker must lie in [0, workers). Received: {worker} of {workers}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1. Received: {batch_size}")
        self._identity = identity(
            tower, preprocessing, source, embed_dim=embed_dim, dtype=dtype, shard_records=shard_records
        )
        self._folder = str(folder)
        self._source = source
        self._preprocessing = preprocessing
        self._encode = encode
        self._batch_size = batch_size
        self._limit = bad_record_limit
        self._report = BadRecordReport(report)
        self._image = preprocessing.fixed_image("Stored embeddings")
        self._explainer = Explainer(self._report, self._image)
        self._count = -(-source.size // shard_records)
        self._mine = range(worker * self._count // workers, (worker + 1) * self._count // workers)
        self._claim_folder()

    def _claim_folder(self) -> None:
        path = f"{self._folder}/{MANIFEST}"
        tf.io.gfile.makedirs(self._folder)
        if not tf.io.gfile.exists(path):
            write_file(path, _json(self._identity))
            return
        with tf.io.gfile.GFile(path) as file:
            found = json.load(file)
        if lines := differences(found, self._identity):
            raise ValueError(
                f"{self._folder} holds embeddings of another run:\n  " + "\n  ".join(lines) + "\n"
                "Name another folder, or delete that one."
            )

    def _path(self, shard: int) -> str:
        return f"{self._folder}/{shard_name(shard, self._count)}"

    def _records(self, shard: int) -> range:
        size = self._identity["shard_records"]
        return range(shard * size, min((shard + 1) * size, self._source.size))

    def missing(self) -> list[int]:
        """Returns this worker's shards that are not written yet."""
        return [shard for shard in self._mine if not tf.io.gfile.exists(self._path(shard))]

    def run(self, progress: Callable[[Progress], None] | None = None) -> StoredEmbeddings | None:
        """Computes this worker's missing shards, and writes the manifest once the shards of all workers exist.

        Args:
            progress: called after every batch.

        Returns:
            The stored embeddings, or None if other workers have not finished.

        Raises:
            TooManyBadRecordsError: a shard has more broken records than the limit.
        """
        shards = self.missing()
        total = sum(len(self._records(shard)) for shard in self._mine)
        before = total - sum(len(self._records(shard)) for shard in shards)
        started, done = time.monotonic(), 0
        batches = self._batches(shards)
        batch = next(batches, None)
        for shard in shards:
            records = self._records(shard)
            parts = []
            while batch is not None and batch["record"][0] < records.stop:
                inside = int(np.searchsorted(batch["record"], records.stop))
                parts.append(_slice(batch, 0, inside))
                if progress is not None:
                    reached = done + int(parts[-1]["record"][-1]) - records.start + 1
                    seconds = time.monotonic() - started
                    left = (total - before - reached) * seconds / reached
                    progress(Progress(before + reached, total, reached / max(seconds, 1e-9), left))
                batch = _slice(batch, inside, None) if inside < len(batch["record"]) else next(batches, None)
            self._write(shard, parts)
            done += len(records)
        return self._finish()

    def _batches(self, shards: list[int]) -> Iterator[dict[str, np.ndarray]]:
        """Yields batches in the order of records.

        A batch holds "record": int64 (images,); "image_embedding": (images, embed_dim); "text": int32 (texts,
        text_length); and "first_text": int64 (images + 1,), where each image's texts begin.
        """

        @tf.autograph.experimental.do_not_convert
        def prepare(_: tf.Tensor, numbered: tuple[tf.Tensor, dict[str, tf.Tensor]]) -> dict[str, tf.Tensor]:
            record, example = numbered
            usable = usable_captions(example["captions"])
            with tf.control_dependencies([usable]):  # Fail before decoding an image that has no caption.
                image = tf.identity(example["image"])
            return {"record": record, "pixels": self._image.pixels(image, fused=True), "captions": usable}

        @tf.autograph.experimental.do_not_convert
        def tokenize(batch: dict[str, Any]) -> dict[str, tf.Tensor]:
            captions = batch.pop("captions")
            return {**batch, "counts": captions.row_lengths(), "text": self._preprocessing.text(captions.flat_values)}

        if not shards:
            return
        spans = _Spans([self._records(shard) for shard in shards])
        parts = [in_order(self._source, start, stop) for start, stop in spans]
        tracker, limit = self._early_limit(spans)
        decoded = (
            tf.data.Dataset.zip(limit.numbers(0), functools.reduce(tf.data.Dataset.concatenate, parts))
            .map(prepare, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
            .ignore_errors()
        )
        dataset = (
            decoded.concatenate(called_at_the_end(decoded.element_spec, limit.raise_failure))
            .ragged_batch(self._batch_size)
            .map(tokenize, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
            .prefetch(2)
        )
        for batch in _with_failure(dataset):
            tracker.arrived(0, spans.numbers(batch["record"].numpy()))
            pixels = batch["pixels"]
            count = int(pixels.shape[0])
            padded = tf.pad(pixels, [[0, self._batch_size - count], [0, 0], [0, 0], [0, 0]])
            embeddings = np.asarray(self._encode(padded))[:count]
            if not np.isfinite(embeddings).all():
                raise ValueError(f"The tower's embeddings of records {batch['record'][0]} and on are not finite.")
            yield {
                "record": batch["record"].numpy(),
                "image_embedding": embeddings.astype(DTYPES[self._identity["dtype"]]),
                "first_text": np.concatenate([[0], np.cumsum(batch["counts"].numpy())]),
                "text": batch["text"].numpy(),
            }

    def _early_limit(self, spans: "_Spans") -> tuple[PositionTracker, EarlyLimit]:
        """Ends the run early if most records are broken; `_write` judges each shard exactly."""

        def explain(certain: bool, numbers: list[int]) -> list[Cause | None]:
            explainer = Explainer(self._report, self._image, certain)
            return [explainer(self._source, record) for record in spans.records(numbers)]

        limit = max(self._limit, _MOSTLY_BROKEN) if self._limit < 1 else max(2.0, self._source.size)
        tracker = PositionTracker(lambda _, numbers: explain(True, numbers), limit)
        tracker.start(0, {0: 0}, {})
        early = EarlyLimit(
            tracker,
            0,
            functools.partial(explain, False),
            waiting=self._batch_size,
            records=spans.size,
            stop=spans.size,
        )
        return tracker, early

    def _write(self, shard: int, parts: list[dict[str, np.ndarray]]) -> None:
        records = self._records(shard)
        used = np.concatenate([part["record"] for part in parts] or [np.zeros(0, np.int64)])
        missing = sorted(set(records) - set(used.tolist()))
        skipped = Counter(self._explainer(self._source, record).value for record in missing)
        if sum(skipped.values()) > max(self._limit * len(records), 1 if self._limit > 0 else 0):
            causes = ", ".join(f"{count} {cause}" for cause, count in skipped.most_common())
            raise TooManyBadRecordsError(
                f"{sum(skipped.values())} of the {len(records)} records of shard {shard} are broken ({causes}), more "
                f"than {self._limit:.2%}. Look at the report of bad records; mend the data, or raise the limit."
            )
        dimensions = {
            "image_embedding": (self._identity["embed_dim"], DTYPES[self._identity["dtype"]]),
            "text": (self._preprocessing.text.length, np.dtype(np.int32)),
        }
        arrays = {
            name: np.concatenate([part[name] for part in parts] or [np.zeros((0, width), dtype)])
            for name, (width, dtype) in dimensions.items()
        }
        counts = [np.diff(part["first_text"]) for part in parts]
        arrays["first_text"] = np.cumsum(np.concatenate([[0], *counts]), dtype=np.int64)
        arrays["record"] = used
        write_shard(self._path(shard), arrays, skipped)

    def _finish(self) -> StoredEmbeddings | None:
        names = [shard_name(shard, self._count) for shard in range(self._count)]
        if not all(tf.io.gfile.exists(f"{self._folder}/{name}") for name in names):
            return None
        shards: list[dict[str, Any]] = []
        skipped: Counter[str] = Counter()
        for name in names:
            arrays, causes = read_shard(f"{self._folder}/{name}")
            shards.append({"file": name, "images": len(arrays["record"]), "texts": len(arrays["text"])})
            skipped.update(causes)
        counts = {
            "read": self._source.size,
            "images": sum(shard["images"] for shard in shards),
            "texts": sum(shard["texts"] for shard in shards),
            "skipped": dict(sorted(skipped.items())),
        }
        write_file(f"{self._folder}/{MANIFEST}", _json({**self._identity, "counts": counts, "shards": shards}))
        sweep(self._folder, names)
        return StoredEmbeddings(self._folder)


class _Spans:
    """The records of some shards, numbered without gaps."""

    def __init__(self, shards: list[range]):
        spans: list[tuple[int, int]] = []
        for records in shards:
            if spans and spans[-1][1] == records.start:
                spans[-1] = spans[-1][0], records.stop
            else:
                spans.append((records.start, records.stop))
        self._spans = np.array(spans, np.int64)
        self._first = np.concatenate([[0], np.cumsum(np.diff(self._spans, axis=1))])
        self.size = int(self._first[-1])

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(self._spans.tolist())

    def records(self, numbers: list[int]) -> list[int]:
        """Returns the record of each number."""
        span = np.searchsorted(self._first, numbers, side="right") - 1
        return (self._spans[span, 0] + numbers - self._first[span]).tolist()

    def numbers(self, records: np.ndarray) -> list[int]:
        """Returns the number of each record."""
        span = np.searchsorted(self._spans[:, 0], records, side="right") - 1
        return (self._first[span] + records - self._spans[span, 0]).tolist()


def _with_failure(dataset: tf.data.Dataset) -> Iterator[dict[str, Any]]:
    """Yields the elements of a data set, and raises its last error as the original Python error."""
    try:
        yield from dataset
    except tf.errors.OpError as error:
        raise TooManyBadRecordsError.within(error) or error from None


def _json(content: dict[str, Any]) -> bytes:
    return json.dumps(content, indent=2).encode() + b"\n"


def _slice(batch: dict[str, np.ndarray], start: int, stop: int | None) -> dict[str, np.ndarray]:
    """Returns images `start` to `stop` of a batch, with their captions."""
    stop = len(batch["record"]) if stop is None else stop
    first = batch["first_text"]
    return {
        "record": batch["record"][start:stop],
        "image_embedding": batch["image_embedding"][start:stop],
        "first_text": first[start : stop + 1] - first[start],
        "text": batch["text"][first[start] : first[stop]],
    }
