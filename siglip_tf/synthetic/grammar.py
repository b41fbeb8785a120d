"""The base class of the languages' grammars: noun phrases in a case, places, relations, and sentences."""

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
    """The wording of one mention of an object: which attributes it names, and which synonyms it uses.

    `variant` selects the synonyms. 0 selects the plain words that class names use.
    """

    size: bool = False
    texture: bool = False
    variant: int = 0


@dataclasses.dataclass(frozen=True)
class Sentence:
    """A pattern with one `{}`, the case of the noun phrase in it, and another pattern for several objects."""

    pattern: str
    case: str = NOMINATIVE
    plural: str | None = None


class Grammar(abc.ABC):
    """The grammar of a language. `captions.py` writes captions with it."""

    code: ClassVar[str]
    # Sentences about the subject alone. The first ones also serve as zero-shot prompts.
    subject_sentences: ClassVar[tuple[Sentence, ...]]
    # Sentences about a list of objects with places, joined by `join`.
    list_sentences: ClassVar[tuple[Sentence, ...]]
    # The same, but they begin with the number of objects: for two objects, and for three.
    count_sentences: ClassVar[tuple[tuple[Sentence, ...], tuple[Sentence, ...]]]
    # Synonyms for each cell of the 3 x 3 grid, row by row.
    places: ClassVar[tuple[tuple[str, ...], ...]]
    placed_pattern: ClassVar[str] = "{phrase} {place}"

    @abc.abstractmethod
    def noun_phrase(self, thing: SceneObject, wording: Wording, case: str = NOMINATIVE) -> str:
        """Returns the object with an indefinite article, for example "a large striped red circle"."""

    @abc.abstractmethod
    def several(self, thing: SceneObject, count: int, wording: Wording, case: str = NOMINATIVE) -> str:
        """Returns two or three equal objects, for example "two large striped red circles"."""

    def counted(self, thing: SceneObject, count: int, wording: Wording, case: str = NOMINATIVE) -> str:
        """Returns one to three equal objects without a place."""
        return self.noun_phrase(thing, wording, case) if count == 1 else self.several(thing, count, wording, case)

    @abc.abstractmethod
    def relation(self, first: SceneObject, second: SceneObject, wordings: tuple[Wording, Wording], where: str) -> str:
        """Returns a nominative phrase that says where the first object is relative to the second.

        `where` is "above", "below", "left", or "right".
        """

    @abc.abstractmethod
    def join(self, phrases: list[str]) -> str:
        """Returns an enumeration: "a", "a and b", "a, b and c"."""

    def place(self, thing: SceneObject, variant: int) -> str:
        row, column = thing.place
        words = self.places[3 * row + column]
        return words[variant % len(words)]

    def placed(self, thing: SceneObject, wording: Wording, case: str = NOMINATIVE) -> str:
        """Returns the object and its place, for example "a red circle at the top left"."""
        place = self.place(thing, wording.variant)
        return self.placed_pattern.format(phrase=self.noun_phrase(thing, wording, case), place=place)


def pick(words: Sequence[str] | str, variant: int) -> str:
    """Returns the synonym that a variant selects."""
    return words if isinstance(words, str) else words[variant % len(words)]


def fill(sentence: Sentence, phrase: str, count: int = 1) -> str:
    """Returns the sentence with a phrase for `count` objects."""
    pattern = sentence.plural if count > 1 and sentence.plural else sentence.pattern
    return pattern.format(phrase)


def draw_wording(generator: random.Random) -> Wording:
    """Returns a random wording, which names the size in half and the texture in 60 % of the cases."""
    return Wording(generator.random() < 0.5, generator.random() < 0.6, generator.randrange(12))
