"""Decodes and resizes the pairs of a small source once and keeps them in memory, so that batches come from arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from siglip_tf.data.preprocessing import ImagePreprocessing
from siglip_tf.data.sources.base import Source
from siglip_tf.data.sources.groups import NO_GROUP
from siglip_tf.data.text.captions import usable_indices

MOST_BYTES = 512 << 20

_as_written = tf.autograph.experimental.do_not_convert


class KeptPictures(Source):
    """A source whose pictures already have the model's size. Batches are the same and cost a tenth of the time.

    A small model passes over its data hundreds of times. Decoding would take longer than training, and so would reading
    the records one by one. A record that cannot be decoded or has no caption is not `sound`, and still counts as
    broken.

    Args:
        source: any local source; see `can_keep`.
        preprocessing: the model's preprocessing of images.
    """

    def __init__(self, source: Source, preprocessing: ImagePreprocessing):
        self._source = source
        self.size, self.name, self.fingerprint = source.size, source.name, source.fingerprint
        self.record_bytes, self.notes, self.has_groups = source.record_bytes, source.notes, source.has_groups
        self.class_names = source.class_names

        @_as_written
        def small(index: tf.Tensor) -> dict[str, tf.Tensor]:
            example = source.read(index)
            usable = usable_indices(example["captions"])
            with tf.control_dependencies([tf.debugging.Assert(tf.size(usable) > 0, ["No caption to train on."])]):
                captions = tf.gather(example["captions"], usable)
            kept: dict[str, tf.Tensor] = {name: example[name] for name in ("id", "label", "group") if name in example}
            if "language" in example:
                kept["languages"] = tf.gather(example["language"], usable)
            pixels = preprocessing.pixels(example["image"], fused=True, note=True)
            return {**kept, "index": index, "pixels": pixels, "captions": captions}

        decoded = tf.data.Dataset.range(source.size).map(small, num_parallel_calls=tf.data.AUTOTUNE)
        pixels = np.zeros([source.size, *preprocessing.spec.shape], np.uint8)
        self._sound = np.zeros([source.size], bool)
        texts: dict[str, list[Any]] = {name: [()] * source.size for name in ("captions", "languages")}
        fields: dict[str, np.ndarray] = {}
        for found in decoded.ignore_errors().as_numpy_iterator():
            index = found.pop("index")
            pixels[index], self._sound[index] = found.pop("pixels"), True
            for name in texts.keys() & found.keys():
                texts[name][index] = found.pop(name)
            for name, value in found.items():
                if name not in fields:
                    fields[name] = np.zeros([source.size], object if isinstance(value, bytes) else value.dtype)
                fields[name][index] = value
        counts = np.array([len(captions) for captions in texts["captions"]], np.int64)
        flat = {name: [text for of_one in lists for text in of_one] for name, lists in texts.items()}
        with tf.device("CPU:0"):  # Data sets run on the CPU.
            self._pixels = tf.constant(pixels)
            self._counts, self._starts = tf.constant(counts), tf.constant(np.cumsum(counts) - counts)
            self._texts = {name: tf.constant(values, tf.string) for name, values in flat.items() if values}
            self._texts.setdefault("captions", tf.constant([], tf.string))
            self._fields = {
                name: tf.constant([value or b"" for value in values] if values.dtype == object else values)
                for name, values in fields.items()
            }

    def sound(self, records: np.ndarray) -> np.ndarray:
        """Returns bool (m,): which of the records, int64 (m,), have a picture and a caption."""
        return self._sound[records]

    def pairs(self, records: tf.Tensor, choices: tf.Tensor, fields: Sequence[str]) -> dict[str, tf.Tensor]:
        """Returns the pairs of sound records, all at once, in the graph.

        Args:
            records: int64 (n,).
            choices: int64 (n,), >= 0; modulo the number of a record's captions, it chooses one of them.
            fields: which of "id", "label", "language", "group" to add.

        Returns:
            `"image"`: uint8 (n, size, size, 3), `"caption"`: string (n,), and the fields, (n,) each.

        Raises:
            ValueError: the source has no such field.
        """
        captions = tf.gather(self._starts, records) + choices % tf.gather(self._counts, records)
        pairs = {
            "image": tf.gather(self._pixels, records),
            "caption": tf.gather(self._texts["captions"], captions),
        }
        for field in fields:
            if field == "language" and "languages" in self._texts:
                pairs[field] = tf.gather(self._texts["languages"], captions)
            elif field in self._fields:
                pairs[field] = tf.gather(self._fields[field], records)
            elif field == "group":
                pairs[field] = tf.fill(tf.shape(records), tf.constant(NO_GROUP, tf.int64))
            else:
                held = [*self._fields, *(["language"] if "languages" in self._texts else [])]
                raise ValueError(f"{self.name} has no {field!r}. Its examples hold {sorted(held)}.")
        return pairs

    def read(self, index: tf.Tensor) -> dict[str, tf.Tensor]:
        """Reads one raw example from the original source, in the graph."""
        return self._source.read(index)

    def fetch(self, index: int) -> dict[str, Any]:
        """Reads one raw example from the original source, outside the graph."""
        return self._source.fetch(index)

    def locate(self, index: int) -> tuple[str, int]:
        """Returns a record's `(shard, offset)` in the original source."""
        return self._source.locate(index)


def can_keep(source: Source, preprocessing: ImagePreprocessing, crops: bool) -> bool:
    """Says whether a source's resized pictures fit into `MOST_BYTES`, and no augmentation needs the originals.

    Args:
        source: the source of training pictures.
        preprocessing: the model's preprocessing of images.
        crops: whether an augmentation changes pictures before they are resized.
    """
    side = preprocessing.size
    return source.runs is None and not crops and source.size * (side * side * 3 + 200) <= MOST_BYTES
