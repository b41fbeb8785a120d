"""What the quickstart trains on and how it is judged: the embedded scenes, or a folder of somebody's own pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from siglip_tf.data.scenes import COMPOSITIONS, HELD_OUT, SceneSource
from siglip_tf.data.scenes.captions import grammar_of
from siglip_tf.data.scenes.composition import SceneObject
from siglip_tf.data.scenes.grammar import Wording
from siglip_tf.data.sources.base import Source

# Read in Python for evaluation and for the report.
MAX_EVALUATED = 2_000
_TOKENIZER_EXAMPLES = 3_000
_PROMPT_SENTENCES = 4


@dataclasses.dataclass(frozen=True)
class Task:
    """One data set with its held-out part.

    Attributes:
        title: of the report.
        train: what is trained on.
        held_out: what is evaluated on: retrieval, and zero-shot where there are labels.
        seen: further pictures like those trained on, for comparison; None if there are none.
        texts: what the tokenizer is trained on.
        labels: class names by label, as they stand in `templates`; empty without labels.
        templates: prompts with one `{}`.
        held_out_labels: the classes of `held_out`, where they are fewer than all.
        zero_shot_goal: accuracy aimed at.
        chance_times_goal: how many times chance the recall at 1 is aimed at.
        held_out_name: what the held-out part is, in words.
    """

    title: str
    train: Source
    held_out: Source
    texts: Iterable[str]
    held_out_name: str
    seen: Source | None = None
    labels: Sequence[str] = ()
    templates: Sequence[str] = ("{}",)
    held_out_labels: Sequence[int] = ()
    zero_shot_goal: float | None = None
    chance_times_goal: float | None = None


def scenes(seed: int, images: int = 1_000, image_size: int = 64) -> Task:
    """The embedded data set: pictures without end, evaluated on compositions that training never shows.

    Args:
        seed: names the data set.
        images: how many pictures each evaluation takes.
        image_size: side of the pictures in pixels.
    """
    train = SceneSource("train", seed=seed, captions=1, image_size=image_size)
    words = SceneSource("train", seed=seed, captions=4)
    english = grammar_of("en")
    labels = [
        english.noun_phrase(SceneObject(shape, colour, "plain", "large", (1, 1)), Wording())
        for colour, shape in COMPOSITIONS
    ]
    return Task(
        title="siglip_tf quickstart: drawn scenes",
        train=train,
        held_out=SceneSource("test", images, seed, captions=2, image_size=image_size),
        seen=SceneSource("validation", images, seed, captions=2, image_size=image_size),
        texts=(text for index in range(_TOKENIZER_EXAMPLES) for text in words.texts(index)),
        held_out_name="compositions that training never shows",
        labels=labels,
        templates=[sentence.pattern for sentence in english.subject_sentences[:_PROMPT_SENTENCES]],
        held_out_labels=sorted(HELD_OUT),
        zero_shot_goal=0.9,
        chance_times_goal=20,
    )
