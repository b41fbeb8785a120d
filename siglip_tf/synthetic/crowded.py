"""The crowded level of the scenes: the captions count equal objects, and other objects share their color or shape.

A *crowded composition* is (count, texture, color, shape). There are 1,200 of them. A scene shows `count` equal large
objects, which are its subject, and one or two small objects. Half of the small objects have the subject's color or its
shape, so that a list of the attributes in a picture does not determine the composition. Pairs of color and shape that
the simple level holds out are held out here too.
"""

from __future__ import annotations

import random
from typing import Final

from siglip_tf.synthetic.composition import (
    COLOURS,
    COMPOSITIONS,
    HELD_OUT,
    PLACES,
    SEEN,
    SHAPES,
    TEXTURES,
    Scene,
    SceneObject,
)

COUNTS: Final = (1, 2, 3)
CROWDED_COMPOSITIONS: Final = tuple(
    (count, texture, colour, shape)
    for count in COUNTS
    for texture in TEXTURES
    for colour in COLOURS
    for shape in SHAPES
)
_CROWDED_LABEL: Final = {composition: label for label, composition in enumerate(CROWDED_COMPOSITIONS)}
_OTHERS: Final = (1, 2)
_ALIKE: Final = 0.5  # fraction of the small objects that have the subject's color or shape


def compose_crowded(generator: random.Random, split: str) -> Scene:
    """Draws a crowded scene of a split.

    Args:
        generator: the random numbers that decide everything about the scene.
        split: "train" and "validation" show only pairs of color and shape that training may show. In "test", the
            subject is a held-out pair, and the other objects may be any pair.

    Returns:
        The scene. Its `label` is an index in `CROWDED_COMPOSITIONS`, and its first `count` objects are the subject.
    """
    subjects = tuple(sorted(HELD_OUT)) if split == "test" else SEEN
    allowed = frozenset(range(len(COMPOSITIONS))) if split == "test" else frozenset(SEEN)
    colour, shape = COMPOSITIONS[generator.choice(subjects)]
    count, texture = generator.choice(COUNTS), generator.choice(TEXTURES)
    others = generator.choice(_OTHERS)
    places = generator.sample(PLACES, count + others)
    used = {(colour, shape)}
    objects = [SceneObject(shape, colour, texture, "large", place) for place in places[:count]]
    for place in places[count:]:
        pair = _other(generator, (colour, shape), used, allowed)
        used.add(pair)
        objects.append(SceneObject(pair[1], pair[0], generator.choice(TEXTURES), "small", place))
    return Scene(tuple(objects), _CROWDED_LABEL[count, texture, colour, shape], count)


def _other(generator, subject, used, allowed):
    """Returns a pair of color and shape that is not in the scene yet. Often it shares one of them with the subject."""
    candidates = [COMPOSITIONS[label] for label in sorted(allowed) if COMPOSITIONS[label] not in used]
    if generator.random() < _ALIKE:
        shared = generator.randrange(2)
        candidates = [pair for pair in candidates if pair[shared] == subject[shared]]
    return generator.choice(candidates)


def bare(composition: tuple[int, str, str, str]) -> tuple[SceneObject, int]:
    """Returns an object of a crowded composition and its count, for prompts."""
    count, texture, colour, shape = composition
    return SceneObject(shape, colour, texture, "large", (1, 1)), count
