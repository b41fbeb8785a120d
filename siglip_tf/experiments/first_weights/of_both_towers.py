"""First weights of both towers from the training pairs.

A few thousand pairs are too few to learn pictures and words from random weights. Closed-form solutions find much of it
in seconds, and training starts there: the image tower as oriented gradients (or its patch projection as principal
components), and the text tower as a sum of token vectors.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from ml_collections import ConfigDict

from siglip_tf.data import Preprocessing
from siglip_tf.data.sources.base import Source
from siglip_tf.data.sources.groups import NO_GROUP
from siglip_tf.experiments.first_weights import oriented_gradients
from siglip_tf.experiments.first_weights.first_words import first_words
from siglip_tf.experiments.first_weights.principal_patches import principal_patches

MOST_PAIRS = 20_000

_as_written = tf.autograph.experimental.do_not_convert


@dataclasses.dataclass(frozen=True)
class Examples:
    """Training pairs in memory.

    Attributes:
        pixels: uint8 (pictures, height, width, 3).
        things: int (pictures,), equal for pictures with the same group, label, or first caption.
        ids: int32 (captions, tokens), the captions of all pictures.
        picture: int (captions,), the picture of each caption.
    """

    pixels: np.ndarray
    things: np.ndarray
    ids: np.ndarray
    picture: np.ndarray


def first_weights(c: ConfigDict, source: Source, preprocessing: Preprocessing, model: Any) -> dict[str, np.ndarray]:
    """Returns the weights that replace a model's initial weights, by canonical name.

    Args:
        c: the settings, of which the seed is used.
        source: the training pairs. 20,000 of them are read, evenly spread.
        preprocessing: the model's preprocessing.
        model: a `SigLIP` model with its initial weights. The weights of its image tower are changed, because the
            weights of the text tower are fitted to its embeddings.

    Returns:
        Weights of both towers. If the image tower cannot start as oriented gradients, the result has the weights of
        `principal_patches` only. It is empty if no picture can be read.
    """
    initial = {name: variable.numpy() for name, variable in model.named_weights().items()}
    examples = read(source, preprocessing)
    if examples is None:
        return {}
    random = np.random.default_rng(c.seed)
    if oriented_gradients.fits(model.image):
        found = oriented_gradients.oriented_gradients(model, examples.pixels, examples.things, initial, random)
        if found:
            return found | first_words(model, examples.pixels, examples.ids, examples.picture, preprocessing, initial)
    # The first embeddings of such a tower separate pictures too little to fit words to them.
    return principal_patches(model.image, examples.pixels, initial, random)


def read(source: Source, preprocessing: Preprocessing, most: int = MOST_PAIRS) -> Examples | None:
    """Reads pictures with their captions, without broken records. Returns None if no picture can be read."""
    chosen = np.unique(np.linspace(0, source.size - 1, min(most, source.size)).astype(np.int64))

    @_as_written
    def one(index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        example = source.read(index)
        pixels = preprocessing.image.pixels(example["image"], fused=True)
        return pixels, _thing(example), preprocessing.text(example["captions"])

    found = tf.data.Dataset.from_tensor_slices(chosen).map(one, num_parallel_calls=tf.data.AUTOTUNE)
    pixels, things, ids = [], [], []
    for picture, thing, texts in found.ignore_errors().as_numpy_iterator():
        pixels.append(picture)
        things.append(thing)
        ids.append(texts)
    if not pixels:
        return None
    numbers = np.unique(things, return_inverse=True)[1]
    return Examples(np.stack(pixels), numbers, np.concatenate(ids), np.repeat(np.arange(len(ids)), list(map(len, ids))))


def _thing(example: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """Returns what a picture shows, as a string: its group, its label, or its first caption."""
    thing = tf.strings.reduce_join(example["captions"][:1])
    if "label" in example:
        label = tf.cast(example["label"], tf.int64)
        thing = tf.where(label >= 0, tf.strings.as_string(label), thing)
    if "group" in example:
        group = tf.cast(example["group"], tf.int64)
        thing = tf.where(group == NO_GROUP, thing, tf.strings.join(["group ", tf.strings.as_string(group)]))
    return thing
