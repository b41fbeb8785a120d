"""First weights of an image tower from the training pictures: the principal components of their patches.

With only a few thousand pictures, a random projection needs hundreds of epochs to become a good one. The principal
components of the pictures' patches preserve the differences between pictures from the first step on. The outputs of the
blocks begin small, so that the blocks hardly change the components at first.

If a patch is a whole picture and the data hold several pictures of the same thing, the differences between those
pictures show which components do not describe the thing. These components are made small (linear discriminant
analysis). The attention of the head then begins as the identity, because a product of two random matrices loses a
quarter of the information in the components.

Source: Coates and Ng, "Learning Feature Representations with K-means", 2012 (whitening of patches); Halko et al.,
"Finding structure with randomness", 2011 (the randomized decomposition); Friedman, "Regularized Discriminant Analysis",
1989 (the shrunk covariance within classes).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import tensorflow as tf
from ml_collections import ConfigDict

from siglip_tf.data import ImagePreprocessing
from siglip_tf.data.sources.base import Source
from siglip_tf.data.sources.groups import NO_GROUP
from siglip_tf.models import VARIANTS

_PICTURES, _PATCHES = 4_000, 4_000
_SPARE, _ROUNDS = 16, 3  # extra directions of the randomized decomposition, and its power iterations
# A component with variance v gets the weight v^-_FLATTEN, so that large components do not hide small ones and noise
# stays small.
_FLATTEN = 0.25
# The fraction of the components' mean variance within classes that is added to each variance, and how many differences
# between pictures of the same thing are needed per component.
_SHRINK, _DIFFERENCES = 0.3, 2

_ENDS_A_BRANCH = re.compile(r"image/(block_\d+/(attention/out|mlp/fc2)|head/mlp/fc2)/kernel")
_IN_HEAD = re.compile(r"image/head/attention/(value|out)/kernel")
_SMALL = np.float32(0.1)

_as_written = tf.autograph.experimental.do_not_convert


def principal_patches(
    c: ConfigDict, source: Source, preprocessing: ImagePreprocessing, initial: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Returns first weights of the image tower: the patch projection, and the last kernel of each residual branch.

    Args:
        c: the settings of the model, and the seed of the rotation that spreads the components over the units.
        source: the training pictures. 4,000 of them are read, evenly spread. Pictures with the same group, label, or
            first caption are considered pictures of the same thing.
        preprocessing: the model's image preprocessing.
        initial: the initial values of all weights by canonical name.

    Returns:
        Weights by canonical name. The patch projection has a float32 kernel (patch, patch, 3, width) and a bias
        (width,). With them, the projected patches of the training pictures have mean 0 and, averaged over the units,
        variance 1. The last kernel of each branch of a block or of the head is a tenth of its initial value. If a patch
        is a whole picture, the value and output kernels of the head's attention are returned too. The result is empty
        if no picture can be read or if all pictures are alike.
    """
    name, _, patch = c.model.image.partition("/")
    size, patch_size = c.model.image_size, int(patch or c.model.patch_size)
    width = c.model.image_width or VARIANTS[name].width
    random = np.random.default_rng(c.seed)
    chosen = np.unique(np.linspace(0, source.size - 1, min(_PICTURES, source.size)).astype(np.int64))

    @_as_written
    def read(index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        example = source.read(index)
        return preprocessing.pixels(example["image"], fused=True), _thing(example)

    pictures = tf.data.Dataset.from_tensor_slices(chosen).map(read, num_parallel_calls=tf.data.AUTOTUNE)
    found = list(pictures.ignore_errors().as_numpy_iterator())
    if not found:
        return {}
    across = size // patch_size
    covered = across * patch_size
    pixels = np.stack([picture for picture, _ in found])[:, :covered, :covered].astype(np.float32) / 127.5 - 1
    patches = pixels.reshape(len(found), across, patch_size, across, patch_size, 3).swapaxes(2, 3)
    patches = patches.reshape(-1, patch_size * patch_size * 3)
    if len(patches) > _PATCHES:
        patches = patches[np.sort(random.permutation(len(patches))[:_PATCHES])]
    mean = patches.mean(axis=0)
    directions, deviations = _components(patches - mean, min(width, *patches.shape), random)
    if not len(deviations):
        return {}
    flatten = np.diag((deviations / deviations[0]) ** (-2 * _FLATTEN))
    if across == 1:
        things = np.unique([thing for _, thing in found], return_inverse=True)[1]
        flatten = _within(((patches - mean) @ directions).astype(np.float64), things, flatten)
    spread = np.linalg.qr(random.standard_normal((width, len(deviations))))[0].T  # (components, width), orthogonal
    kernel = directions @ flatten @ spread
    kernel /= np.sqrt(np.mean(np.square((patches - mean) @ kernel)))
    branches = {name: _SMALL * array for name, array in initial.items() if _ENDS_A_BRANCH.fullmatch(name)}
    if across == 1:
        head = [name for name in initial if _IN_HEAD.fullmatch(name)]
        branches |= {name: np.eye(width, dtype=np.float32).reshape(initial[name].shape) for name in head}
    return branches | {
        "image/patch_embedding/kernel": kernel.reshape(patch_size, patch_size, 3, width).astype(np.float32),
        "image/patch_embedding/bias": (-mean @ kernel).astype(np.float32),
    }


def _thing(example: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """Returns what a picture shows as a string: its group, else its label, else its first caption."""
    thing = tf.strings.reduce_join(example["captions"][:1])
    if "label" in example:
        label = tf.cast(example["label"], tf.int64)
        thing = tf.where(label >= 0, tf.strings.as_string(label), thing)
    if "group" in example:
        group = tf.cast(example["group"], tf.int64)
        thing = tf.where(group == NO_GROUP, thing, tf.strings.join(["group ", tf.strings.as_string(group)]))
    return thing


def _within(rows: np.ndarray, things: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    """Returns the matrix that nearly whitens the differences between pictures of the same thing.

    Args:
        rows: the components of the pictures, float64 (pictures, components).
        things: the number of the thing that each picture shows, int (pictures,).
        otherwise: the matrix to return if too few pictures show the same thing, (components, components).
    """
    counts = np.bincount(things)
    components = rows.shape[1]
    if len(rows) - len(counts) < _DIFFERENCES * components:
        return otherwise
    means = np.zeros((len(counts), components))
    np.add.at(means, things, rows)
    apart = rows - (means / counts[:, None])[things]
    covariance = apart.T @ apart / (len(rows) - len(counts))
    values, axes = np.linalg.eigh(covariance + _SHRINK * np.trace(covariance) / components * np.eye(components))
    if values[0] <= 1e-9 * np.square(rows).mean():
        return otherwise  # the pictures of a thing are copies
    return axes * values**-0.5 @ axes.T


def _components(rows: np.ndarray, count: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Returns the directions of largest variance as columns, and the deviations along them, largest first."""
    guess = random.standard_normal((rows.shape[1], min(count + _SPARE, *rows.shape))).astype(np.float32)
    for _ in range(_ROUNDS):
        guess = np.linalg.qr(rows.T @ (rows @ guess))[0]
    _, singular, right = np.linalg.svd(rows @ guess, full_matrices=False)
    kept = np.flatnonzero(singular[:count] > 1e-3 * max(singular[0], 1e-6))
    return guess @ right[kept].T, singular[kept] / np.sqrt(len(rows))
