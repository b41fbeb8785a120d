"""Resamples position embeddings to another resolution."""

from __future__ import annotations

import dataclasses

import numpy as np

from siglip_tf.checkpoints import architecture as arch
from siglip_tf.checkpoints.checkpoint import Checkpoint


def resample_position_embedding(
    embedding: np.ndarray, new_grid: int | tuple[int, int], old_grid: tuple[int, int] | None = None
) -> np.ndarray:
    """Resamples a grid of position embeddings bilinearly with aligned corners.

    The corners of the old and the new grid coincide: row i of n' is at i * (n - 1) / (n' - 1) of n. This is what
    `scipy.ndimage.zoom(grid, (n' / n, n' / n, 1), order=1)` computes. `jax.image.resize` and `tf.image.resize` align
    the outer edges of the pixels instead, which gives other values.

    Args:
        embedding: float32 (1, rows * columns, d).
        new_grid: rows and columns of the new grid, or one number for a square.
        old_grid: rows and columns of the old grid. The default is a square.

    Returns:
        float32 (1, new rows * new columns, d), or `embedding` itself if the grid does not change.

    Raises:
        CheckpointError: if the positions do not form a square grid and `old_grid` is not given.

    Source: big_vision `models/vit.py`, `resample_posemb`.
    """
    _, positions, d = embedding.shape
    rows, columns = (new_grid, new_grid) if isinstance(new_grid, int) else new_grid
    old_rows, old_columns = old_grid or (arch.grid_side(positions),) * 2
    if (rows, columns) == (old_rows, old_columns):
        return embedding
    grid = embedding.reshape(old_rows, old_columns, d).astype(np.float64)  # scipy computes in float64 too
    grid = np.einsum("ih,jw,hwd->ijd", _lerp(old_rows, rows), _lerp(old_columns, columns), grid, optimize=True)
    return grid.reshape(1, rows * columns, d).astype(np.float32)


def _lerp(old: int, new: int) -> np.ndarray:
    """Returns a matrix (new, old) whose rows hold the weights of the two old points next to each new point."""
    at = np.linspace(0, old - 1, new) if new > 1 else np.zeros(1)
    low = np.minimum(at.astype(int), max(old - 2, 0))
    weights = np.zeros((new, old))
    np.add.at(weights, (np.arange(new), low), 1 - (at - low))
    np.add.at(weights, (np.arange(new), np.minimum(low + 1, old - 1)), at - low)
    return weights


def with_image_size(checkpoint: Checkpoint, image_size: arch.ImageSize) -> Checkpoint:
    """Returns the checkpoint at another resolution.

    The position embeddings are resampled, and the architecture and the preprocessing are updated.

    Args:
        checkpoint: any checkpoint with an image tower.
        image_size: the new resolution in pixels: the side of a square, or (height, width). Each side must be at least
            one patch.

    Raises:
        ValueError: if `image_size` is smaller than a patch, or this is a NaFlex model.
    """
    if checkpoint.architecture.get("max_patches"):
        raise ValueError(
            f"A NaFlex model takes pictures of any size. Received: image_size={image_size}. Set max_patches, the "
            "patches of a picture, in SigLIP.from_checkpoint(path, max_patches=...)."
        )
    patch = checkpoint.weights["image/patch_embedding/kernel"].shape[0]
    if min(arch.sides(image_size)) < patch:
        raise ValueError(f"image_size must be at least one patch, {patch} pixels. Received: {image_size}")
    former = checkpoint.weights["image/position_embedding"]
    old, new = arch.grid(checkpoint.architecture["image_size"], patch), arch.grid(image_size, patch)
    embedding = resample_position_embedding(former, new, old)
    notes = checkpoint.notes
    if embedding is not former:
        notes += ("Position embeddings resampled bilinearly from {} x {} to {} x {} patches.".format(*old, *new),)
    preprocessing = checkpoint.preprocessing
    if preprocessing and preprocessing.get("image"):
        height, width = arch.sides(image_size)
        image = {**preprocessing["image"], "size": height} if height == width else None
        preprocessing = {**preprocessing, "image": image}
        if image is None:
            notes += (f"Image preprocessing left out: it makes squares, and this model takes {height} x {width}.",)
    return dataclasses.replace(
        checkpoint,
        architecture={**checkpoint.architecture, "image_size": image_size},
        weights={**checkpoint.weights, "image/position_embedding": embedding},
        preprocessing=preprocessing,
        notes=notes,
    )
