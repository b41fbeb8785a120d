"""The content of a scene: one to three objects, each with a shape, color, texture, size, and place.

A *composition* is a pair (color, shape). One fifth of them are held out: no object of the training split shows them,
and no training caption names them. Each color and each shape occurs in eight other compositions. The first object of a
scene is its subject. It is larger than the others, and its composition is the scene's label.
"""

from __future__ import annotations

import dataclasses
import random
from typing import Final

SHAPES: Final = ("circle", "square", "triangle", "star", "cross", "ring", "heart", "crescent", "diamond", "arrow")
COLOURS: Final = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "white", "black")
TEXTURES: Final = ("plain", "striped", "dotted", "checked")
SIZES: Final = ("small", "large")
# (row, column) of a 3 x 3 grid, row by row.
PLACES: Final = tuple((row, column) for row in range(3) for column in range(3))
SPLITS: Final = ("train", "validation", "test")

COMPOSITIONS: Final = tuple((colour, shape) for colour in COLOURS for shape in SHAPES)
# Two shapes of each color and two colors of each shape, so that all attributes are equally frequent in training.
HELD_OUT: Final = frozenset(
    label
    for label, (colour, shape) in enumerate(COMPOSITIONS)
    if (SHAPES.index(shape) - 3 * COLOURS.index(colour)) % 10 in (2, 6)
)
SEEN: Final = tuple(label for label in range(len(COMPOSITIONS)) if label not in HELD_OUT)

_OBJECT_COUNT_WEIGHTS: Final = (5, 4, 3)  # for one, two, and three objects


@dataclasses.dataclass(frozen=True)
class SceneObject:
    """One object, with the names of its attributes and its place as (row, column) of a 3 x 3 grid."""

    shape: str
    colour: str
    texture: str
    size: str
    place: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Scene:
    """The objects of a picture. The subject comes first.

    Attributes:
        objects: one to three objects, or up to five in a crowded scene.
        label: the index in `COMPOSITIONS`, or in `CROWDED_COMPOSITIONS` for a crowded scene.
        count: how many of the first objects are the subject. It is 1 except in a crowded scene.
    """

    objects: tuple[SceneObject, ...]
    label: int
    count: int = 1


def compose(generator: random.Random, split: str) -> Scene:
    """Draws a scene of a split.

    Args:
        generator: the random numbers that decide everything about the scene.
        split: "train" and "validation" contain only seen compositions. In "test", the subject is a held-out
            composition, and the other objects may be any composition.

    Returns:
        The scene.
    """
    labels = tuple(sorted(HELD_OUT)) if split == "test" else SEEN
    other_labels = range(len(COMPOSITIONS)) if split == "test" else SEEN
    (count,) = generator.choices((1, 2, 3), weights=_OBJECT_COUNT_WEIGHTS)
    label = generator.choice(labels)
    used = {label}
    while len(used) < count:
        used.add(generator.choice(other_labels))
    places = generator.sample(PLACES, count)
    objects = []
    for position, composition in enumerate([label, *sorted(used - {label})]):
        colour, shape = COMPOSITIONS[composition]
        # With other objects, the subject is the large one, which makes it the subject. Alone, it may be small.
        size = generator.choice(SIZES) if count == 1 else SIZES[position == 0]
        objects.append(SceneObject(shape, colour, generator.choice(TEXTURES), size, places[position]))
    return Scene(tuple(objects), label)
