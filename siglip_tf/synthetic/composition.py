"""What a scene holds: one to three objects with shape, colour, texture, size and place, some pairs held out.

A *composition* is a pair (colour, shape). Every fifth one is held out: no object of the training split shows it
and no training caption names it, while each colour and each shape is seen in eight other compositions. The
first object of a scene is its subject: it is larger than the others, and its composition is the scene's label.
"""

from __future__ import annotations

import dataclasses
import random
from typing import Final

SHAPES: Final = ("circle", "square", "triangle", "star", "cross", "ring", "heart", "crescent", "diamond", "arrow")
COLOURS: Final = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "white", "black")
TEXTURES: Final = ("plain", "striped", "dotted", "checked")
SIZES: Final = ("small", "large")
# Row by row: (row, column) of a 3 x 3 grid.
PLACES: Final = tuple((row, column) for row in range(3) for column in range(3))
SPLITS: Final = ("train", "validation", "test")

COMPOSITIONS: Final = tuple((colour, shape) for colour in COLOURS for shape in SHAPES)
# Two shapes of each colour and two colours of each shape, so that no attribute is rarer in training than another.
HELD_OUT: Final = frozenset(
    label
    for label, (colour, shape) in enumerate(COMPOSITIONS)
    if (SHAPES.index(shape) - 3 * COLOURS.index(colour)) % 10 in (2, 6)
)
SEEN: Final = tuple(label for label in range(len(COMPOSITIONS)) if label not in HELD_OUT)

_OBJECT_COUNT_WEIGHTS: Final = (5, 4, 3)  # of one, two and three objects


@dataclasses.dataclass(frozen=True)
class SceneObject:
    """One object: words for its attributes, and `place` as (row, column) of a 3 x 3 grid."""

    shape: str
    colour: str
    texture: str
    size: str
    place: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Scene:
    """Objects, the subject first.

    Attributes:
        objects: one to three; in a crowded scene up to five.
        label: indexes `COMPOSITIONS`, or `CROWDED_COMPOSITIONS` of a crowded scene.
        count: how many of the first objects are the subject: one, but for a crowded scene.
    """

    objects: tuple[SceneObject, ...]
    label: int
    count: int = 1


def compose(generator: random.Random, split: str) -> Scene:
    """Draws a scene of a split.

    Args:
        generator: Its state decides everything about the scene.
        split: "train" and "validation" hold seen compositions only; in "test" the subject is a held-out
            composition and the other objects are any.

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
        # Alone, the subject may be small; in company it is the large one: that is what makes it the subject.
        size = generator.choice(SIZES) if count == 1 else SIZES[position == 0]
        objects.append(SceneObject(shape, colour, generator.choice(TEXTURES), size, places[position]))
    return Scene(tuple(objects), label)
