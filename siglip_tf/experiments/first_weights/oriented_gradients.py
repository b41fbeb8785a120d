"""First weights of a small vision transformer: histograms of oriented gradients.

A few thousand pictures are too few to learn edges from random weights. Histograms of oriented gradients were the best
features before networks learned their own, and a vision transformer with one block can start as such a histogram:

- The patch projection keeps all pixels of a patch. The length of a token is the energy of the gradients in its patch,
  so the norm before the MLP equalizes contrast. Each place has one more unit of its own.
- Each hidden unit of the MLP is a difference between neighboring pixels' luminance in one of four directions. GELU
  keeps the positive part, and there is one unit for each sign. The second matrix sums the units over the four cells of
  a patch.
- Each head of the attention pooling attends to one place, and computes the principal components of the pixels and
  gradients there. The output kernel makes the differences between pictures of the same thing equal in all directions
  (linear discriminant analysis).

Training changes all of these weights.

Source: Dalal and Triggs, "Histograms of Oriented Gradients for Human Detection", 2005; Friedman, "Regularized
Discriminant Analysis", 1989 (the shrunk covariance within classes).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from siglip_tf.experiments.first_weights.discriminants import within
from siglip_tf.experiments.first_weights.principal_patches import patches_of

_PICTURES, _BATCH = 10_000, 250
_DIRECTIONS, _CELLS = 4, 2  # of gradients; cells along a side of a patch
# The length of all other differences between pixels, and of the unit of a place, relative to the gradients of an
# average token.
_OTHER, _PLACE = 0.2, 0.2
# The input of GELU for an average gradient. GELU is nearly linear from there on.
_EXCITE = 2.0
# The deviation of the gradients that a head receives, relative to that of the pixels.
_GRADIENTS = 1.5
# The length of a constant that the MLP adds, relative to an average token. With it, the final norm scales all tokens
# nearly equally.
_STEADY = 8.0
# The logit with which a head prefers its place.
_LOOK = 7.0
_SMALL = 0.1


def fits(tower: Any) -> bool:
    """Returns whether an `ImageTower` can start so: one block, one head per place, and enough units."""
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
    """Returns first weights of the image tower by canonical name, and assigns them to the model.

    Args:
        model: a `SigLIP` model whose image tower `fits`.
        pixels: uint8 (pictures, height, width, 3), the training pictures. 10,000 of them are used, evenly spread.
        things: int (pictures,), equal for pictures of the same thing.
        initial: the initial values of all weights by canonical name.
        random: the generator of the rotation that spreads the components over the units.

    Returns:
        All weights of the image tower, float32. The result is empty if all pictures are equal or have no gradients.
    """
    chosen = np.unique(np.linspace(0, len(pixels) - 1, min(_PICTURES, len(pixels))).astype(np.int64))
    pixels, things = pixels[chosen], np.unique(things[chosen], return_inverse=True)[1]
    if not np.ptp(pixels, axis=0).any():
        return {}
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
    """Returns the patch projection, the positions, and the block for `patches` (patches, pixel values)."""
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
    """Returns the attention pooling for `tokens` (pictures, places, width), the outputs of the final norm."""
    places, width = tokens.shape[1:]
    by_head = width // places
    projection = block["image/patch_embedding/kernel"].reshape(-1, width)
    values = len(projection)
    first = values + places
    cells = np.arange(first, first + _CELLS**2 * _DIRECTIONS)

    # Tokens -> pixels and gradients. Both are centered at each place and have a fixed deviation in total.
    seen = np.zeros((width, values + len(cells)))
    seen[:values, :values] = np.linalg.inv(projection[:, :values])
    seen[cells, values + np.arange(len(cells))] = 1.0
    features = tokens @ seen.astype(np.float32)
    features -= features.mean(axis=0)
    for part, share in ((slice(values), 1.0), (slice(values, None), _GRADIENTS)):
        scale = share / max(np.sqrt(np.square(features[..., part]).sum((1, 2)).mean()), 1e-6)
        features[..., part] *= scale
        seen[:, part] *= scale

    # The principal components for each head, and the discriminants of all heads together.
    value = np.zeros((width, places, by_head))
    for head in range(places):
        here = features[:, head].astype(np.float64)
        value[:, head] = seen @ np.linalg.eigh(here.T @ here)[1][:, -by_head:]
    pooled = np.einsum("nhw,whk->nhk", tokens, value, optimize=True).reshape(len(tokens), -1)
    middle = pooled.mean(axis=0)
    out = within(pooled - middle, things) @ np.linalg.qr(random.standard_normal((width, width)))[0]
    out /= np.sqrt(np.mean(np.square((pooled - middle) @ out)))

    # The query of each head matches the unit of its place.
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
    """Returns differences between neighboring pixels' luminance in four directions, at each pixel of a patch.

    Returns:
        The filters, float64 (3 * patch^2, pixels * directions), and for each the number of its cell and direction, int
        (pixels * directions,).
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
