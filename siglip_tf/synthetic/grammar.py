"""What every language's grammar offers: noun phrases in a case, places, relations and sentences round them."""

from __future__ import annotations

import abc
import dataclasses
import random
from collections.abc import Sequence
from typing import ClassVar

from siglip_tf.synthetic.composition import SceneObject

NOMINATIVE, ACCUSATIVE, DATIVE, GENITIVE = "nominative", "accusative", "dative", "genitive"


@dataclasses.dataclass(frozen=True)
class Wording:
    """How one mention of an object is worded: which attributes are named, and which synonym each takes.

    `variant` picks among synonyms; 0 is the plain word that class names use.
    """

    size: bool = False
    texture: bool = False
    variant: int = 0


@dataclasses.dataclass(frozen=True)
class Sentence:
    """A pattern with one `{}`, the case that the noun phrase takes there, and the pattern round several objects."""

    pattern: str
    case: str = NOMINATIVE
    plural: str | None = None


class Grammar(abc.ABC):
    """A language. Subclasses are written by hand; `captions.py` puts scenes into words through this surface."""

    code: ClassVar[str]
    # About the subject alone; the first ones serve as zero-shot prompts too.
    subject_sentences: ClassVar[tuple[Sentence, ...]]
    # About a list of placed objects, joined by `join`.
    list_sentences: ClassVar[tuple[Sentence, ...]]
    # The same with the number said first: for two objects, and for three.
    count_sentences: ClassVar[tuple[tuple[Sentence, ...], tuple[Sentence, ...]]]
    # Word for each cell of the 3 x 3 grid, row by row.
    places: ClassVar[tuple[tuple[str, ...], ...]]
    placed_pattern: ClassVar[str] = "{phrase} {place}"

    @abc.abstractmethod
    def noun_phrase(self, thing: SceneObject, wording: Wording, case: str = NOMINATIVE) -> str:
        """The object with an indefinite article, e.g. "a large striped red circle"."""

    @abc.abstractmethod
    def several(self, thing: SceneObject, count: int, wording: Wording, case: str = NOMINATIVE) -> str:
        """Two or three equal objects: "two large striped red circles"."""

    def counted(self, thing: SceneObject, count: int, wording: Wording, case: str = NOMINATIVE) -> str:
        """One to three equal objects, without a place."""
        return self.noun_phrase(thing, wording, case) if count == 1 else self.several(thing, count, wording, case)

    @abc.abstractmethod
    def relation(self, first: SceneObject, second: SceneObject, wordings: tuple[Wording, Wording], where: str) -> str:
        """First object `where` ("above", "below", "left" or "right") of the second, as one nominative phrase."""

    @abc.abstractmethod
    def join(self, phrases: list[str]) -> str:
        """An enumeration: "a", "a and b", "a, b and c"."""

    def place(self, thing: SceneObject, variant: int) -> str:
        row, column = thing.place
        words = self.places[3 * row + column]
        return words[variant % len(words)]

    def placed(self, thing: SceneObject, wording: Wording, case: str = NOMINATIVE) -> str:
        """The object and its place, e.g. "a red circle at the top left"."""
        place = self.place(thing, wording.variant)
        return self.placed_pattern.format(phrase=self.noun_phrase(thing, wording, case), place=place)


def pick(words: Sequence[str] | str, variant: int) -> str:
    """The synonym that a variant asks for."""
    return words if isinstance(words, str) else words[variant % len(words)]


def fill(sentence: Sentence, phrase: str, count: int = 1) -> str:
    """The sentence round a phrase for `count` objects."""
    pattern = sentence.plural if count > 1 and sentence.plural else sentence.pattern
    return pattern.format(phrase)


def draw_wording(generator: random.Random) -> Wording:
    """A random wording: attributes are left out about as often as people leave them out."""
    return Wording(generator.random() < 0.5, generator.random() < 0.6, generator.randrange(12))
