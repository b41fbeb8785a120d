"""First weights of a small vision transformer: oriented gradients in cells, weighted by what tells the pictures apart.

A few thousand pictures are too few to learn from nothing what edges are. Histograms of oriented gradients were the best
features of pictures before networks learned them, and a vision transformer of one block can begin as such:

- The patch projection keeps all pixels of a patch. A token's length is that of the gradients in its patch, so that the
  norm before the MLP evens out contrast. Beside the pixels a token has one unit for its place.
- Each hidden unit of the MLP is the difference of two neighboring pixels' luminance along one of four directions. GELU
  keeps what is positive, and there is a unit for either sign. The second matrix sums them up in the four cells of a
  patch.
- Each head of the attention pooling looks at one place, and takes the principal components of pixels and gradients that
  it sees there. Behind the heads stands the matrix that makes the differences between pictures of one thing alike in
  all directions (linear discriminant analysis).

Training then changes all of it.

Source: Dalal and Triggs, "Histograms of Oriented Gradients for Human Detection", 2005; Friedman, "Regularized
Discriminant Analysis", 1989 (the shrunk covariance within classes).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from siglip_tf.experiments.discriminants import within
from siglip_tf.experiments.principal_patches import patches_of

_PICTURES, _BATCH = 10_000, 250
_DIRECTIONS, _CELLS = 4, 2  # of gradients; cells along a side of a patch
# Lengths beside that of a mean token's gradients: of all other differences between pixels, and of its place.
_OTHER, _PLACE = 0.2, 0.2
# GELU receives this from a gradient of mean length: it is nearly linear there.
_EXCITE = 2.0
# Deviation of the gradients that a head sees, beside that of the pixels.
_GRADIENTS = 1.5
# Length of a constant that the MLP adds, beside a mean token's: so the final norm divides all tokens nearly alike.
_STEADY = 8.0
# Logit by which a head prefers its place.
_LOOK = 7.0
_SMALL = 0.1


def fits(tower: Any) -> bool:
    """Whether an `ImageTower` can begin so: one block, a head for each place, units for all that a token holds."""
    size, patch = tower.size, tower.patch_size
    places = (tower.image_size[0] // patch) * (tower.image_size[1] // patch)
    return (
        tower.pool == "map"
        and size.depth == 1
        and patch % _CELLS == 0
        and 1 < places == size.num_heads <= size.width // size.num_heads
        and size.width >= 3 * patch**2 + places + _CELLS**2 * _DIRECTIONS + 2
        and size.mlp_dim >= 2 * _DIRECTIONS * patch**2
    )


def oriented_gradients(
    model: Any, pixels: np.ndarray, things: np.ndarray, initial: Mapping[str, np.ndarray], random: np.random.Generator
) -> dict[str, np.ndarray]:
    """First weights of the image tower by their canonical names; the model has them afterwards.

    Args:
        model: `SigLIP` whose image tower `fits`.
        pixels: uint8 (pictures, height, width, 3), training pictures; 10,000 of them are used, evenly spread.
        things: int (pictures,), what each shows.
        initial: the initial values of all weights.
        random: of the rotation that spreads what is found over the units.

    Returns:
        All weights of the image tower. Empty where all pictures are alike or without any gradient.
    """
    chosen = np.unique(np.linspace(0, len(pixels) - 1, min(_PICTURES, len(pixels))).astype(np.int64))
    pixels, things = pixels[chosen], np.unique(things[chosen], return_inverse=True)[1]
    patches = patches_of(pixels, model.image.patch_size)
    weights = _block(patches.reshape(-1, patches.shape[2]), initial)
    if not weights:
        return {}
    _assign(model, initial, weights)
    batches = (tf.constant(pixels[start : start + _BATCH]) for start in range(0, len(pixels), _BATCH))
    tokens = np.concatenate([tf.cast(_tokens(model.image, batch), tf.float32).numpy() for batch in batches])
    weights |= _pooling(tokens, things, weights, initial, random)
    _assign(model, initial, weights)
    return {name: array.astype(np.float32) for name, array in weights.items()}


def _block(patches: np.ndarray, initial: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Patch projection, positions and the block; `patches` is (patches, pixel values)."""
    weights = {name: array for name, array in initial.items() if name.startswith("image/")}
    kernel, places = weights["image/patch_embedding/kernel"], weights["image/position_embedding"].shape[1]
    patch, width = kernel.shape[0], kernel.shape[3]
    values = 3 * patch**2

    # Pixels -> units, in the metric of gradients. The norm before the MLP makes a token sqrt(width) long.
    slopes, cells = _slopes(patch)
    units = len(cells)
    mean = patches.mean(axis=0, dtype=np.float64)
    energy, other = np.square((patches - mean) @ slopes).sum(1).mean(), np.square(patches - mean).sum(1).mean()
    if min(energy, other) < 1e-6:
        return {}
    metric = width * (slopes @ slopes.T / energy + _OTHER**2 / other * np.eye(values))
    lengths, axes = np.linalg.eigh(metric)
    to_units, to_pixels = axes * np.sqrt(lengths) @ axes.T, axes / np.sqrt(lengths) @ axes.T
    projection = np.pad(to_units, ((0, 0), (0, width - values)))
    position = _PLACE * np.sqrt(width) * np.eye(places, width, values)

    # Units -> gradients of either sign -> cells, and a constant.
    up = np.zeros(weights["image/block_0/mlp/fc1/kernel"].shape)
    up[:values, :units] = _EXCITE * np.sqrt(units / energy) * to_pixels @ slopes
    up[:, units : 2 * units] = -up[:, :units]
    down = np.zeros(up.T.shape)
    first, kept = values + places, values + places + cells.max() + 1
    down[np.arange(2 * units), first + np.tile(cells, 2)] = (cells.max() + 1) / units / _EXCITE
    steady = np.zeros(width)
    steady[kept:] = _STEADY * np.sqrt(width / (width - kept)) * (-1.0) ** np.arange(width - kept)
    return weights | {
        "image/patch_embedding/kernel": projection.reshape(kernel.shape),
        "image/patch_embedding/bias": -mean @ projection,
        "image/position_embedding": position[None],
        "image/block_0/attention/out/kernel": 0 * initial["image/block_0/attention/out/kernel"],
        "image/block_0/mlp/fc1/kernel": up,
        "image/block_0/mlp/fc2/kernel": down,
        "image/block_0/mlp/fc2/bias": steady,
    }


def _pooling(
    tokens: np.ndarray,
    things: np.ndarray,
    block: Mapping[str, np.ndarray],
    initial: Mapping[str, np.ndarray],
    random: np.random.Generator,
) -> dict[str, np.ndarray]:
    """The attention pooling: `tokens` are (pictures, places, width) behind the final norm."""
    places, width = tokens.shape[1:]
    by_head = width // places
    projection = block["image/patch_embedding/kernel"].reshape(-1, width)
    values = len(projection)
    first = values + places
    cells = np.arange(first, first + _CELLS**2 * _DIRECTIONS)

    # Tokens -> pixels and gradients, each centered at its place and of one deviation in all.
    seen = np.zeros((width, values + len(cells)))
    seen[:values, :values] = np.linalg.inv(projection[:, :values])
    seen[cells, values + np.arange(len(cells))] = 1.0
    features = tokens @ seen.astype(np.float32)
    features -= features.mean(axis=0)
    for part, share in ((slice(values), 1.0), (slice(values, None), _GRADIENTS)):
        scale = share / max(np.sqrt(np.square(features[..., part]).sum((1, 2)).mean()), 1e-6)
        features[..., part] *= scale
        seen[:, part] *= scale

    # Each head's principal components of them, then discriminants of all heads' together.
    value = np.zeros((width, places, by_head))
    for head in range(places):
        here = features[:, head].astype(np.float64)
        value[:, head] = seen @ np.linalg.eigh(here.T @ here)[1][:, -by_head:]
    pooled = np.einsum("nhw,whk->nhk", tokens, value, optimize=True).reshape(len(tokens), -1)
    middle = pooled.mean(axis=0)
    out = within(pooled - middle, things) @ np.linalg.qr(random.standard_normal((width, width)))[0]
    out /= np.sqrt(np.mean(np.square((pooled - middle) @ out)))

    # Each head looks for the unit of its place.
    own = tokens[:, np.arange(places), values + np.arange(places)].mean()
    query, key = np.eye(places, by_head), np.zeros((width, places, by_head))
    key[values:first, :, :places] = np.eye(places)[:, None]
    attention = "image/head/attention"
    return {
        f"{attention}/query/kernel": 0 * initial[f"{attention}/query/kernel"],
        f"{attention}/query/bias": _LOOK * np.sqrt(by_head) / own * query,
        f"{attention}/key/kernel": key,
        f"{attention}/value/kernel": value,
        f"{attention}/value/bias": -middle.reshape(places, by_head),
        f"{attention}/out/kernel": out.reshape(places, by_head, width),
        "image/head/mlp/fc2/kernel": _SMALL * initial["image/head/mlp/fc2/kernel"],
    }


def _slopes(patch: int) -> tuple[np.ndarray, np.ndarray]:
    """Differences of neighboring pixels' luminance along four directions, at each pixel.

    Returns:
        float64 (3 * patch^2, pixels * directions); and int (pixels * directions,), the number of each one's cell and
        direction.
    """
    slopes, cells = [], []
    for row in range(patch):
        for column in range(patch):
            up, down = max(row - 1, 0), min(row + 1, patch - 1)
            left, right = max(column - 1, 0), min(column + 1, patch - 1)
            vertical, horizontal = np.zeros((2, patch, patch, 1))
            vertical[[up, down], column, 0] = np.array([-1, 1]) / (down - up)
            horizontal[row, [left, right], 0] = np.array([-1, 1]) / (right - left)
            cell = (row * _CELLS // patch) * _CELLS + column * _CELLS // patch
            for direction in range(_DIRECTIONS):
                angle = np.pi * direction / _DIRECTIONS
                along = np.sin(angle) * vertical + np.cos(angle) * horizontal
                slopes.append(np.repeat(along / 3, 3, axis=2).ravel())
                cells.append(cell * _DIRECTIONS + direction)
    return np.array(slopes).T, np.array(cells)


def _tokens(tower: Any, batch: tf.Tensor) -> tf.Tensor:
    return tower(tf.cast(batch, tf.float32) / 127.5 - 1.0, pooled=False)


def _assign(model: Any, initial: Mapping[str, np.ndarray], weights: Mapping[str, np.ndarray]) -> None:
    model.assign_weights({**initial, **{name: array.astype(np.float32) for name, array in weights.items()}})
