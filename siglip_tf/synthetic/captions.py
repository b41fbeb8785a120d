"""Captions of scenes: five kinds of sentences, in each of the languages."""

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
    """Returns a caption of the scene in lower case.

    The caption names only the subject, the subject and its place, two objects and their relation, or all objects with
    their places, which it may count first. Everything that it says is true. It leaves out details at random.

    Args:
        scene: the content of the picture.
        generator: the random numbers that decide the kind of caption and its wording.
        language: one of `LANGUAGES`.

    Returns:
        The caption.

    Raises:
        ValueError: if there is no grammar for the language.
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
    """Returns zero-shot prompts for every composition, in correct grammar.

    Args:
        language: one of `LANGUAGES`.
        templates: the number of prompts per class.

    Returns:
        For each label of `COMPOSITIONS`, `templates` prompts: "a red circle", "a picture of a red circle", ...

    Raises:
        ValueError: if there is no grammar for the language.
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
    """Returns the English names of the compositions by label: "red circle", ..."""
    return [f"{colour} {shape}" for colour, shape in COMPOSITIONS]


def grammar_of(language: str) -> Grammar:
    """Returns the grammar for a language code.

    Raises:
        ValueError: if there is none.
    """
    if language not in GRAMMARS:
        raise ValueError(f"There is no grammar for language {language!r}. Expected one of {', '.join(LANGUAGES)}.")
    return GRAMMARS[language]


def _bare(colour: str, shape: str) -> SceneObject:
    return SceneObject(shape, colour, "plain", "large", (1, 1))


def where(first: SceneObject, second: SceneObject) -> str:
    """Returns where the first object is relative to the second.

    Returns:
        "above", "below", "left", or "right", along the axis on which they are farther apart. If the distances are
        equal, the vertical axis is used.
    """
    rows, columns = (first.place[axis] - second.place[axis] for axis in range(2))
    if abs(rows) >= abs(columns):
        return "above" if rows < 0 else "below"
    return "left" if columns < 0 else "right"
