"""Crowded scenes in words, in any of the languages."""

from __future__ import annotations

import random

from siglip_tf.synthetic.captions import grammar_of, where
from siglip_tf.synthetic.composition import Scene
from siglip_tf.synthetic.crowded import CROWDED_COMPOSITIONS, bare
from siglip_tf.synthetic.grammar import Wording, fill

_TEXTURE_NAMED = 0.7
_VARIANTS = 12


def crowded_caption(scene: Scene, generator: random.Random, language: str = "en") -> str:
    """A caption of a crowded scene, lower case.

    It counts the subject ("two dotted red circles"). It may also name one other object with its place, the place of
    both relative to each other where the subject is one object, or all other objects. What is said is true.

    Args:
        scene: what the picture shows.
        generator: decides kind and wording.
        language: one of `LANGUAGES`.

    Raises:
        ValueError: there is no grammar for the language.
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
    """Zero-shot prompts of every crowded composition: "two dotted red circles", "a picture of two ...", ...

    Args:
        language: one of `LANGUAGES`.
        templates: sentences for each composition.

    Returns:
        For each of `CROWDED_COMPOSITIONS`, `templates` prompts.

    Raises:
        ValueError: there is no grammar for the language.
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
    """Sizes are never named: the subject is large, the others are small."""
    return Wording(False, generator.random() < _TEXTURE_NAMED, generator.randrange(_VARIANTS))
