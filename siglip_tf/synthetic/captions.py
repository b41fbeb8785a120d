"""Scenes in words: one of five kinds of caption, in any of the languages."""

from __future__ import annotations

import random
from typing import Final

from siglip_tf.synthetic.chinese import Chinese
from siglip_tf.synthetic.composition import COMPOSITIONS, Scene, SceneObject
from siglip_tf.synthetic.english import English
from siglip_tf.synthetic.french import French
from siglip_tf.synthetic.german import German
from siglip_tf.synthetic.grammar import Grammar, Wording, draw_wording, fill
from siglip_tf.synthetic.spanish import Spanish
from siglip_tf.synthetic.turkish import Turkish

GRAMMARS: Final[dict[str, Grammar]] = {
    grammar.code: grammar for grammar in (English(), German(), Spanish(), French(), Turkish(), Chinese())
}
LANGUAGES: Final = tuple(GRAMMARS)


def caption(scene: Scene, generator: random.Random, language: str = "en") -> str:
    """A caption of the scene, lower case.

    It names the subject alone, the subject and its place, every object with its place, two objects and their
    relation, or counts them first. What is said is true; what is left out is random.

    Args:
        scene: What the picture shows.
        generator: Decides kind and wording.
        language: One of `LANGUAGES`.

    Returns:
        The caption.

    Raises:
        ValueError: There is no grammar for the language.
    """
    grammar = grammar_of(language)
    subject, others = scene.objects[0], scene.objects[1:]
    wordings = [draw_wording(generator) for _ in scene.objects]
    kind = generator.random()
    if kind < 0.4:
        sentence = generator.choice(grammar.subject_sentences)
        text = fill(sentence, grammar.noun_phrase(subject, wordings[0], sentence.case))
    elif kind < 0.55 or not others:
        sentence = generator.choice(grammar.list_sentences)
        text = fill(sentence, grammar.placed(subject, wordings[0], sentence.case))
    elif kind < 0.72:
        second = generator.randrange(len(others))
        pair = (wordings[0], wordings[1 + second])
        text = grammar.relation(subject, others[second], pair, where(subject, others[second]))
    else:
        sentences = grammar.list_sentences if kind < 0.9 else grammar.count_sentences[len(others) - 1]
        sentence = generator.choice(sentences)
        phrases = [
            grammar.placed(thing, wording, sentence.case)
            for thing, wording in zip(scene.objects, wordings, strict=True)
        ]
        text = fill(sentence, grammar.join(phrases))
    return text.lower()


def class_prompts(language: str = "en", templates: int = 4) -> list[list[str]]:
    """Zero-shot prompts of every composition, each grammatical in its language.

    Args:
        language: One of `LANGUAGES`.
        templates: How many sentences a class gets.

    Returns:
        For each label of `COMPOSITIONS`, `templates` prompts: "a red circle", "a picture of a red circle", ...

    Raises:
        ValueError: There is no grammar for the language.
    """
    grammar = grammar_of(language)
    return [
        [
            fill(sentence, grammar.noun_phrase(_bare(colour, shape), Wording(), sentence.case)).lower()
            for sentence in grammar.subject_sentences[:templates]
        ]
        for colour, shape in COMPOSITIONS
    ]


def class_names() -> list[str]:
    """English names of the compositions by label: "red circle", ..."""
    return [f"{colour} {shape}" for colour, shape in COMPOSITIONS]


def grammar_of(language: str) -> Grammar:
    """The grammar of a language code.

    Raises:
        ValueError: There is none.
    """
    if language not in GRAMMARS:
        raise ValueError(f"There is no grammar for language {language!r}. Expected one of {', '.join(LANGUAGES)}.")
    return GRAMMARS[language]


def _bare(colour: str, shape: str) -> SceneObject:
    return SceneObject(shape, colour, "plain", "large", (1, 1))


def where(first: SceneObject, second: SceneObject) -> str:
    """Where the first object is, seen from the second.

    Returns:
        "above", "below", "left" or "right", along the axis that separates them more; vertical if both are equal.
    """
    rows, columns = (first.place[axis] - second.place[axis] for axis in range(2))
    if abs(rows) >= abs(columns):
        return "above" if rows < 0 else "below"
    return "left" if columns < 0 else "right"
