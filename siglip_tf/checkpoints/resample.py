"""Position embeddings for another resolution."""

from __future__ import annotations

import dataclasses

import numpy as np

from siglip_tf.checkpoints import architecture as arch
from siglip_tf.checkpoints.checkpoint import Checkpoint


def resample_position_embedding(embedding: np.ndarray, side: int) -> np.ndarray:
    """Resamples a square grid of position embeddings bilinearly, corner on corner.

    The corners of the old and the new grid coincide: row i of n' lies at i * (n - 1) / (n' - 1) of n. This is what
    `scipy.ndimage.zoom(grid, (n' / n, n' / n, 1), order=1)` computes; `jax.image.resize` and `tf.image.resize` align
    the pixels' outer edges instead and give other values.

    Args:
        embedding: float32 (1, n * n, d).
        side: n', patches along one side of the new grid.

    Returns:
        float32 (1, side * side, d); `embedding` itself where the grid stays the same.

    Raises:
        CheckpointError: the positions form no square grid.

    Source: big_vision `models/vit.py`, `resample_posemb`.
    """
    _, positions, d = embedding.shape
    old = arch.grid_side(positions)
    if side == old:
        return embedding
    # float64, as scipy computes it; the matrix holds the two weights of each new row.
    at = np.linspace(0, old - 1, side) if side > 1 else np.zeros(1)
    low = np.minimum(at.astype(int), max(old - 2, 0))
    high = np.minimum(low + 1, old - 1)
    weights = np.zeros((side, old))
    np.add.at(weights, (np.arange(side), low), 1 - (at - low))
    np.add.at(weights, (np.arange(side), high), at - low)
    grid = embedding.reshape(old, old, d).astype(np.float64)
    grid = np.einsum("ih,jw,hwd->ijd", weights, weights, grid, optimize=True)
    return grid.reshape(1, side * side, d).astype(np.float32)


def with_image_size(checkpoint: Checkpoint, image_size: int) -> Checkpoint:
    """The checkpoint at another resolution: position embeddings resampled, architecture and preprocessing to match.

    Args:
        checkpoint: any checkpoint with an image tower.
        image_size: new resolution in pixels, at least one patch.

    Raises:
        ValueError: `image_size` holds no whole patch.
    """
    patch = checkpoint.weights["image/patch_embedding/kernel"].shape[0]
    if image_size < patch:
        raise ValueError(f"image_size must be at least one patch, {patch} pixels. Received: {image_size}")
    former = checkpoint.weights["image/position_embedding"]
    embedding = resample_position_embedding(former, image_size // patch)
    notes = checkpoint.notes
    if embedding is not former:
        sides = (arch.grid_side(former.shape[1]), image_size // patch)
        notes += ("Position embeddings resampled bilinearly from {0} x {0} to {1} x {1} patches.".format(*sides),)
    preprocessing = checkpoint.preprocessing
    if preprocessing and preprocessing.get("image"):
        preprocessing = {**preprocessing, "image": {**preprocessing["image"], "size": image_size}}
    return dataclasses.replace(
        checkpoint,
        architecture={**checkpoint.architecture, "image_size": image_size},
        weights={**checkpoint.weights, "image/position_embedding": embedding},
        preprocessing=preprocessing,
        notes=notes,
    )
