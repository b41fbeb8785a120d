"""Draws scenes by signed distances on a pixel grid: antialiased objects with outlines and textures on a gradient.

Every object has the same dark outline. Without it, a small model would need far longer to learn the shapes, because it
would have to separate ten light and dark colors and four textures from the background.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable, Iterable
from typing import Final

import numpy as np

from siglip_tf.synthetic.composition import Scene, SceneObject

_RGB: Final = {
    "red": (214, 38, 40),
    "orange": (246, 132, 28),
    "yellow": (250, 214, 44),
    "green": (44, 156, 72),
    "blue": (38, 92, 206),
    "purple": (122, 56, 170),
    "pink": (246, 142, 188),
    "brown": (118, 70, 34),
    "white": (249, 249, 246),
    "black": (26, 26, 30),
}
# The second color of a texture is light on dark objects and dark on light objects.
_DARK_ACCENT: Final = {"white": (128, 128, 132), "yellow": (88, 78, 40)}
_LIGHT_ACCENT: Final = (246, 246, 244)
_ACCENT: Final = 0.6  # strength of the second color: clearly visible, but weaker than the outline

# Fractions of the picture's side.
_RADIUS: Final = {"small": (0.090, 0.104), "large": (0.142, 0.157)}
_PLACE_CENTRES: Final = (1 / 6, 0.5, 5 / 6)
_PLACE_JITTER: Final = 0.012
_MAX_ROTATION: Final = math.radians(5)
_OUTLINE: Final = 0.0266
_OUTLINE_GREY: Final = 20
_NOISE_SIDE: Final = 512

Grid = np.ndarray  # float32 (height, width)


def draw(scene: Scene, generator: random.Random, size: int = 64) -> np.ndarray:
    """Draws a scene.

    Args:
        scene: the content of the picture.
        generator: the random numbers that decide the background and each object's exact place, radius, rotation, and
            shade.
        size: height and width of the picture in pixels.

    Returns:
        RGB pixels, uint8 (size, size, 3).
    """
    canvas = _background(generator, size)
    for thing in reversed(scene.objects):
        _draw_object(canvas, thing, generator)
    canvas += 0.5
    return np.ascontiguousarray(_between(canvas, 0, 255).astype(np.uint8).transpose(1, 2, 0))


def _background(generator: random.Random, size: int) -> np.ndarray:
    """Returns a gradient between two muted colors with a little grain, float32 (3, size, size).

    The channels come first, so that numpy's inner loops run along rows of pixels and not along the three channels.
    """
    first, second = (_muted_colour(generator) for _ in range(2))
    angle = generator.uniform(0, 2 * math.pi)
    ramp = _ramp(size)
    weight = (math.cos(angle) * ramp)[:, None] + (math.sin(angle) * ramp + 0.5)
    top, left = (generator.randrange(_NOISE_SIDE - size) for _ in range(2))
    grain = _noise()[top : top + size, left : left + size]
    strength = generator.uniform(1, 6)
    canvas = (second - first) * weight
    canvas += first
    canvas += strength * grain
    return canvas


@functools.cache
def _ramp(size: int) -> np.ndarray:
    return np.linspace(-0.35, 0.35, size, dtype=np.float32)


def _between(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Clips in place. It omits the checks of `np.clip`, because there are many small arrays."""
    np.maximum(values, low, out=values)
    return np.minimum(values, high, out=values)


def _length(u: Grid, v: Grid) -> Grid:
    return np.sqrt(u * u + v * v)


def _muted_colour(generator: random.Random) -> np.ndarray:
    """Returns a grayish color (3, 1, 1) of medium brightness, from which white and black objects stand out."""
    value, saturation = generator.uniform(132, 206), generator.uniform(0.0, 0.3)
    return _colour([value * (1 - saturation * generator.random()) for _ in range(3)])


def _colour(rgb: Iterable[float]) -> np.ndarray:
    return np.fromiter(rgb, np.float32, 3)[:, None, None]


@functools.cache
def _noise() -> np.ndarray:
    """Returns one fixed field of grain. Every picture uses a random window of it, because new grain is expensive."""
    return np.random.default_rng(0).standard_normal((_NOISE_SIDE, _NOISE_SIDE), np.float32)


def _draw_object(canvas: np.ndarray, thing: SceneObject, generator: random.Random) -> None:
    size = canvas.shape[1]
    radius = size * generator.uniform(*_RADIUS[thing.size])
    row, column = (
        size * (_PLACE_CENTRES[index] + generator.uniform(-_PLACE_JITTER, _PLACE_JITTER)) for index in thing.place
    )
    rotation = generator.uniform(-_MAX_ROTATION, _MAX_ROTATION)
    shade = _colour([generator.uniform(-10, 10) for _ in range(3)])
    phase = generator.random()

    reach = math.ceil(radius * 1.25 + _OUTLINE * size) + 2
    top, left = max(0, int(row) - reach), max(0, int(column) - reach)
    bottom, right = min(size, int(row) + reach + 1), min(size, int(column) + reach + 1)
    y = (np.arange(top, bottom, dtype=np.float32) + (0.5 - row))[:, None]
    x = (np.arange(left, right, dtype=np.float32) + (0.5 - column))[None, :]
    cosine, sine = math.cos(rotation), math.sin(rotation)
    u, v = (x * cosine + y * sine) / radius, (y * cosine - x * sine) / radius

    distance = _SHAPES[thing.shape](u, v) * radius  # pixels, negative inside
    window = canvas[:, top:bottom, left:right]
    outline = _between(_OUTLINE * size + 0.5 - distance, 0, 1)
    window += (_OUTLINE_GREY - window) * outline
    paint = _colour(_RGB[thing.colour]) + shade
    if thing.texture != "plain":
        accent = _ACCENT * (_colour(_DARK_ACCENT.get(thing.colour, _LIGHT_ACCENT)) - paint)
        paint = paint + accent * _TEXTURES[thing.texture](u * radius, v * radius, size / 64, phase)
    cover = _between(0.5 - distance, 0, 1)
    window += (paint - window) * cover


# Shapes: signed distances, negative inside, in units of the radius. u points right and v points down.


def _convex(u: Grid, v: Grid, edges: tuple[tuple[float, float, float], ...]) -> Grid:
    """Returns the distance from the convex polygon that half planes (normal u, normal v, offset) enclose."""
    distance = edges[0][0] * u + edges[0][1] * v - edges[0][2]
    for normal_u, normal_v, offset in edges[1:]:
        distance = np.maximum(distance, normal_u * u + normal_v * v - offset)
    return distance


def _circle(u: Grid, v: Grid) -> Grid:
    return _length(u, v) - 0.96


def _square(u: Grid, v: Grid) -> Grid:
    return np.maximum(np.abs(u), np.abs(v)) - 0.82


def _triangle(u: Grid, v: Grid) -> Grid:
    return np.maximum(v - 0.72, 0.876 * np.abs(u) - 0.482 * v - 0.49)


def _star(u: Grid, v: Grid) -> Grid:
    # Fold the plane onto half a point of the star, so that one straight edge from the tip to the inner corner remains.
    fifth = math.tau / 5
    angle = np.arctan2(u, -v)
    folded = np.abs(angle - fifth * np.round(angle / fifth))
    radius = _length(u, v)
    along, across = radius * np.cos(folded), radius * np.sin(folded)
    tip, inner = 1.08, 0.47
    corner_along, corner_across = inner * math.cos(fifth / 2), inner * math.sin(fifth / 2)
    edge = math.hypot(tip - corner_along, corner_across)
    return (corner_across * (along - tip) + (tip - corner_along) * across) / edge


def _cross(u: Grid, v: Grid) -> Grid:
    across, along = np.minimum(np.abs(u), np.abs(v)), np.maximum(np.abs(u), np.abs(v))
    return np.maximum(across - 0.30, along - 0.94)


def _ring(u: Grid, v: Grid) -> Grid:
    return np.abs(_length(u, v) - 0.76) - 0.20


def _heart(u: Grid, v: Grid) -> Grid:
    # A square that stands on a corner, with two half disks on its upper edges.
    x, y = np.abs(u) / 1.62, (0.98 - v) / 1.62
    lobe = _length(x - 0.25, y - 0.75) - math.sqrt(2) / 4
    half = 0.5 * np.maximum(x + y, 0)
    body = np.minimum(_length(x, y - 1), _length(x - half, y - half)) * np.sign(x - y)
    return np.where(x + y > 1, lobe, body) * 1.62


def _crescent(u: Grid, v: Grid) -> Grid:
    return np.maximum(_length(u, v) - 1.0, 0.80 - _length(u - 0.48, v + 0.18))


def _diamond(u: Grid, v: Grid) -> Grid:
    return 0.81 * np.abs(u) + 0.586 * np.abs(v) - 0.60


def _arrow(u: Grid, v: Grid) -> Grid:
    head = _convex(np.abs(u), v, ((0.72, -0.694, 0.72), (0.0, 1.0, 0.0)))
    shaft = np.maximum(np.abs(u) - 0.28, np.abs(v - 0.4) - 0.56)
    return np.minimum(head, shaft)


_SHAPES: Final[dict[str, Callable[[Grid, Grid], Grid]]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "ring": _ring,
    "heart": _heart,
    "crescent": _crescent,
    "diamond": _diamond,
    "arrow": _arrow,
}


# Textures: the weight of the second color from 0 to 1. x and y are in pixels. `unit` is 1/64 of the side in pixels.


def _striped(x: Grid, y: Grid, unit: float, phase: float) -> Grid:
    period = 5.0 * unit
    wave = np.abs(((x + y) * (math.sqrt(0.5) / period) + phase) % 1.0 - 0.5) * period
    return _between(wave - 0.28 * period + 0.5, 0, 1)


def _dotted(x: Grid, y: Grid, unit: float, phase: float) -> Grid:
    period = 5.0 * unit
    distance = _length((x / period + phase) % 1.0 - 0.5, (y / period + phase) % 1.0 - 0.5) * period
    return _between(1.55 * unit - distance + 0.5, 0, 1)


def _checked(x: Grid, y: Grid, unit: float, phase: float) -> Grid:
    period = 7.0 * unit
    horizontal, vertical = (np.abs((z / period + phase) % 1.0 - 0.5) - 0.25 for z in (x, y))
    distance = np.minimum(np.abs(horizontal), np.abs(vertical)) * period
    return _between(0.5 + np.sign(horizontal * vertical) * distance, 0, 1)


_TEXTURES: Final[dict[str, Callable[[Grid, Grid, float, float], Grid]]] = {
    "striped": _striped,
    "dotted": _dotted,
    "checked": _checked,
}
