"""A baseline without training: the training picture with the nearest pixels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from siglip_tf.data import ImagePreprocessing
from siglip_tf.data.sources.base import Source

_SIDE = 16
MOST = 20_000  # the largest number of training pictures to compare with
MOST_DRAWN = 2_000  # the same for synthetic data, whose pictures must be drawn first
_ENDLESS = 1 << 32
_WORDS = 5_000

_as_written = tf.autograph.experimental.do_not_convert


class Baseline:
    """Answers with the label or the captions of the training picture that is nearest at 16 x 16 pixels.

    Args:
        train: the training pictures. The first 20,000 are read, or 2,000 of synthetic data. Broken ones are left out.

    Raises:
        ValueError: if no training picture can be used.
    """

    name = "nearest neighbor on 16 x 16 pixels"

    def __init__(self, train: Source):
        most = min(train.size, MOST if train.size < _ENDLESS else MOST_DRAWN)
        preprocessing = ImagePreprocessing(_SIDE, method="bilinear_antialias", alpha="white")
        self._pixels = preprocessing.pixels

        def read(index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            example = train.read(index)
            label = tf.cast(example.get("label", -1), tf.int32)
            caption = tf.strings.reduce_join(example["captions"], separator=" ")
            return self._pixels(example["image"], fused=True), label, caption

        rows = tf.data.Dataset.range(most).map(_as_written(read), num_parallel_calls=tf.data.AUTOTUNE)
        found = list(rows.ignore_errors().batch(256).as_numpy_iterator())
        if not found:
            raise ValueError(f"None of the first {most} records of {train.name} can be used.")
        pixels, labels, captions = (np.concatenate(part) for part in zip(*found, strict=True))
        self._train = _flat(pixels)
        self._labels = labels
        self._captions = captions
        self._nearest: tuple[int, np.ndarray] | None = None

    def nearest(self, images: Sequence[bytes]) -> np.ndarray:
        """Returns the number of the nearest training picture for each encoded picture, int (images,)."""
        if self._nearest is not None and self._nearest[0] == id(images):
            return self._nearest[1]
        dataset = tf.data.Dataset.from_tensor_slices(list(images))
        pixels = dataset.map(
            _as_written(lambda data: self._pixels(data, fused=True)), num_parallel_calls=tf.data.AUTOTUNE
        )
        held_out = _flat(np.stack(list(pixels.as_numpy_iterator())))
        squares = (self._train**2).sum(axis=1)
        answer = np.concatenate(
            [(squares - 2 * rows @ self._train.T).argmin(axis=1) for rows in np.array_split(held_out, 8) if len(rows)]
        )
        self._nearest = id(images), answer
        return answer

    def accuracy(self, images: Sequence[bytes], labels: np.ndarray) -> float:
        """Returns how often the nearest training picture has the same label, for the pictures that have a label."""
        counted = labels >= 0
        return float((self._labels[self.nearest(images)] == labels)[counted].mean()) if counted.any() else 0.0

    def recall(self, images: Sequence[bytes], captions: Sequence[Sequence[str]]) -> float:
        """Returns the image-to-text R@1 of this baseline.

        The answer to a picture is the held-out caption with the most words in common with the captions of the nearest
        training picture.
        """
        texts = [text for each in captions for text in each]
        owner = np.repeat(np.arange(len(captions)), [len(each) for each in captions])
        common = Counter(word for text in texts for word in set(text.lower().split())).most_common(_WORDS)
        number = {word: i for i, (word, _) in enumerate(common)}
        candidates = _words(texts, number)
        said = _words([self._captions[i].decode(errors="replace") for i in self.nearest(images)], number)
        best = (said @ candidates.T).argmax(axis=1)
        return float((owner[best] == np.arange(len(captions))).mean())


def _flat(pixels: np.ndarray) -> np.ndarray:
    return pixels.reshape(len(pixels), -1).astype(np.float32) / 255


def _words(texts: Sequence[str], number: dict[str, int]) -> np.ndarray:
    """Returns unit vectors of the words that occur in each text, float32 (texts, words)."""
    rows = np.zeros((len(texts), max(1, len(number))), np.float32)
    for row, text in zip(rows, texts, strict=True):
        row[[number[word] for word in set(text.lower().split()) if word in number]] = 1.0
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
