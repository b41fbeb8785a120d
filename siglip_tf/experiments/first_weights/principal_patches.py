"""First weights of an image tower from the training pictures: the principal components of their patches.

With only a few thousand pictures, a random projection needs hundreds of epochs to become a good one. The principal
components of the pictures' patches preserve the differences between pictures from the first step on. The outputs of the
blocks begin small, so that the blocks hardly change the components at first.

Source: Coates and Ng, "Learning Feature Representations with K-means", 2012 (whitening of patches); Halko et al.,
"Finding structure with randomness", 2011 (the randomized decomposition).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

_PICTURES, _PATCHES = 4_000, 4_000
_SPARE, _ROUNDS = 16, 3  # extra directions of the randomized decomposition, and its power iterations
# A component with variance v gets the weight v^-_FLATTEN, so that large components do not hide small ones and noise
# stays small.
_FLATTEN = 0.25

_ENDS_A_BRANCH = re.compile(r"image/(block_\d+/(attention/out|mlp/fc2)|head/mlp/fc2)/kernel")
_SMALL = np.float32(0.1)


def principal_patches(
    tower: Any, pixels: np.ndarray, initial: Mapping[str, np.ndarray], random: np.random.Generator
) -> dict[str, np.ndarray]:
    """Returns first weights of the image tower: the patch projection, and the last kernel of each residual branch.

    Args:
        tower: the `ImageTower`.
        pixels: uint8 (pictures, height, width, 3), the training pictures. 4,000 of them are used, evenly spread.
        initial: the initial values of all weights by canonical name.
        random: the generator that chooses patches and the rotation that spreads the components over the units.

    Returns:
        Weights by canonical name. The patch projection has a float32 kernel (patch, patch, 3, width) and a bias
        (width,). With them, the projected patches of the training pictures have mean 0 and, averaged over the units,
        variance 1. The last kernel of each branch of a block or of the head is a tenth of its initial value. The result
        is empty if all pictures are alike.
    """
    width = tower.size.width
    chosen = np.unique(np.linspace(0, len(pixels) - 1, min(_PICTURES, len(pixels))).astype(np.int64))
    patches = patches_of(pixels[chosen], tower.patch_size)
    patches = patches.reshape(-1, patches.shape[2])
    if len(patches) > _PATCHES:
        patches = patches[np.sort(random.permutation(len(patches))[:_PATCHES])]
    mean = patches.mean(axis=0)
    directions, deviations = _components(patches - mean, min(width, *patches.shape), random)
    if not len(deviations):
        return {}
    flat = directions * (deviations / deviations[0]) ** (-2 * _FLATTEN)
    spread = np.linalg.qr(random.standard_normal((width, len(deviations))))[0].T  # (components, width), orthogonal
    kernel = flat @ spread
    kernel /= np.sqrt(np.mean(np.square((patches - mean) @ kernel)))
    branches = {name: _SMALL * array for name, array in initial.items() if _ENDS_A_BRANCH.fullmatch(name)}
    return branches | {
        "image/patch_embedding/kernel": kernel.reshape(tower.patch_size, tower.patch_size, 3, width).astype(np.float32),
        "image/patch_embedding/bias": (-mean @ kernel).astype(np.float32),
    }


def patches_of(pixels: np.ndarray, patch: int) -> np.ndarray:
    """uint8 (pictures, height, width, 3) -> float32 (pictures, patches, patch * patch * 3) in [-1, 1]."""
    rows, columns = (side // patch for side in pixels.shape[1:3])
    covered = pixels[:, : rows * patch, : columns * patch].astype(np.float32) / 127.5 - 1
    parts = covered.reshape(len(pixels), rows, patch, columns, patch, 3).swapaxes(2, 3)
    return parts.reshape(len(pixels), rows * columns, patch * patch * 3)


def _components(rows: np.ndarray, count: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The directions of largest variance as columns, and the deviations along them, largest first."""
    guess = random.standard_normal((rows.shape[1], min(count + _SPARE, *rows.shape))).astype(np.float32)
    for _ in range(_ROUNDS):
        guess = np.linalg.qr(rows.T @ (rows @ guess))[0]
    _, singular, right = np.linalg.svd(rows @ guess, full_matrices=False)
    kept = np.flatnonzero(singular[:count] > 1e-3 * max(singular[0], 1e-6))
    return guess @ right[kept].T, singular[kept] / np.sqrt(len(rows))
