"""The pictures of a small source, decoded and resized once and kept in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from siglip_tf.data import ImagePreprocessing
from siglip_tf.data.sources.base import Source

MOST_BYTES = 512 << 20

_as_written = tf.autograph.experimental.do_not_convert


class KeptPictures(Source):
    """A source whose pictures have the model's size already: batches are the same, and cost less.

    A small model passes hundreds of times over its data, and decoding would take longer than training. What cannot be
    decoded stays as it is, and counts as broken as before.

    Args:
        source: any local source; see `can_keep`.
        preprocessing: the model's.
    """

    def __init__(self, source: Source, preprocessing: ImagePreprocessing):
        self._source = source
        self.size, self.name, self.fingerprint = source.size, source.name, source.fingerprint
        self.record_bytes, self.notes, self.has_groups = source.record_bytes, source.notes, source.has_groups
        self.class_names = source.class_names

        def small(index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return index, preprocessing.pixels(source.read(index)["image"], fused=True)

        pixels = np.zeros([source.size, *preprocessing.spec.shape], np.uint8)
        sound = np.zeros([source.size], bool)
        decoded = tf.data.Dataset.range(source.size).map(_as_written(small), num_parallel_calls=tf.data.AUTOTUNE)
        for index, picture in decoded.ignore_errors().as_numpy_iterator():
            pixels[index], sound[index] = picture, True
        self._pixels, self._sound = tf.constant(pixels), tf.constant(sound)

    def read(self, index: tf.Tensor) -> dict[str, tf.Tensor]:
        """One raw example, in-graph, with "pixels" in place of the image."""
        example = self._source.read(index)
        sound = tf.debugging.Assert(tf.gather(self._sound, index), ["The picture cannot be decoded."])
        with tf.control_dependencies([sound]):
            return {**example, "image": tf.constant(""), "pixels": tf.gather(self._pixels, index)}

    def fetch(self, index: int) -> dict[str, Any]:
        """One raw example outside the graph, as the source has it."""
        return self._source.fetch(index)

    def locate(self, index: int) -> tuple[str, int]:
        """As the source."""
        return self._source.locate(index)


def can_keep(source: Source, preprocessing: ImagePreprocessing, crops: bool) -> bool:
    """Whether a source's pictures fit into `MOST_BYTES`, and no augmentation needs them whole.

    Args:
        source: of training pictures.
        preprocessing: the model's.
        crops: whether an augmentation changes pictures before they are resized.
    """
    side = preprocessing.size
    return source.runs is None and not crops and source.size * (side * side * 3 + 200) <= MOST_BYTES
