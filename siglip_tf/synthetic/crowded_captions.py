"""Captions of crowded scenes, in each of the languages."""

from __future__ import annotations

import random

from siglip_tf.synthetic.captions import grammar_of, where
from siglip_tf.synthetic.composition import Scene
from siglip_tf.synthetic.crowded import CROWDED_COMPOSITIONS, bare
from siglip_tf.synthetic.grammar import Wording, fill

_TEXTURE_NAMED = 0.7
_VARIANTS = 12


def crowded_caption(scene: Scene, generator: random.Random, language: str = "en") -> str:
    """Returns a caption of a crowded scene in lower case.

    The caption counts the subject ("two dotted red circles"). It may also name one other object or all other objects
    with their places. If the subject is a single object, it may say where the subject is relative to another object.
    Everything that it says is true.

    Args:
        scene: the content of the picture.
        generator: the random numbers that decide the kind of caption and its wording.
        language: one of `LANGUAGES`.

    Raises:
        ValueError: if there is no grammar for the language.
    """
    grammar = grammar_of(language)
    subject, others = scene.objects[0], scene.objects[scene.count :]
    worded = [_wording(generator) for _ in range(1 + len(others))]
    kind = generator.random()
    chosen = generator.randrange(len(others))
    if kind < 0.35:
        sentence = generator.choice(grammar.subject_sentences)
        text = fill(sentence, grammar.counted(subject, scene.count, worded[0], sentence.case), scene.count)
    elif kind < 0.55 and scene.count == 1:
        pair = (worded[0], worded[1 + chosen])
        text = grammar.relation(subject, others[chosen], pair, where(subject, others[chosen]))
    else:
        named = range(len(others)) if kind >= 0.8 else [chosen]
        sentence = generator.choice(grammar.list_sentences)
        phrases = [grammar.counted(subject, scene.count, worded[0], sentence.case)]
        phrases += [grammar.placed(others[i], worded[1 + i], sentence.case) for i in named]
        text = fill(sentence, grammar.join(phrases))
    return text.lower()


def crowded_prompts(language: str = "en", templates: int = 4) -> list[list[str]]:
    """Returns zero-shot prompts for every crowded composition: "two dotted red circles", "a picture of two ...", ...

    Args:
        language: one of `LANGUAGES`.
        templates: the number of prompts per composition.

    Returns:
        For each of `CROWDED_COMPOSITIONS`, `templates` prompts.

    Raises:
        ValueError: if there is no grammar for the language.
    """
    grammar = grammar_of(language)
    prompts = []
    for composition in CROWDED_COMPOSITIONS:
        thing, count = bare(composition)
        sentences = grammar.subject_sentences[:templates]
        wording = Wording(texture=True)
        prompts.append([fill(s, grammar.counted(thing, count, wording, s.case), count).lower() for s in sentences])
    return prompts


def _wording(generator: random.Random) -> Wording:
    """Draws a wording without sizes, because the subject is always large and the others are small."""
    return Wording(False, generator.random() < _TEXTURE_NAMED, generator.randrange(_VARIANTS))
