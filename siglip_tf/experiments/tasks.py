"""What the quickstart trains on and how it is judged: the embedded scenes, or a folder of somebody's own pictures."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence

import tensorflow as tf

from siglip_tf.data.sources.base import Source
from siglip_tf.data.sources.folder import FolderSource
from siglip_tf.synthetic import COMPOSITIONS, HELD_OUT, SceneSource
from siglip_tf.synthetic.captions import grammar_of
from siglip_tf.synthetic.composition import SceneObject
from siglip_tf.synthetic.grammar import Wording

# Read in Python for evaluation and for the report.
MAX_EVALUATED = 2_000
_TOKENIZER_EXAMPLES = 3_000
_PROMPTS = 4
_FALLBACK_PROMPTS = ("{}", "a photo of {}", "a picture of {}")
# Names that a held-out part goes by, most final first.
_HELD_OUT_SPLITS = ("test", "validation", "val", "dev")
_MAX_CAPTIONS_READ = 50_000


@dataclasses.dataclass(frozen=True)
class Task:
    """One data set with its held-out part.

    Attributes:
        title: of the report.
        train: what is trained on.
        held_out: what is evaluated on: retrieval, and zero-shot where there are labels.
        seen: further pictures like those trained on, for comparison; None if there are none.
        texts: what the tokenizer is trained on.
        vocabulary: how many pieces it may have.
        labels: class names by label, as they stand in `templates`; empty without labels.
        templates: prompts with one `{}`.
        held_out_labels: the classes of `held_out`, where they are fewer than all.
        crop_area: part of a training picture's area that random crops keep; None crops nothing.
        zero_shot_goal: accuracy aimed at.
        chance_times_goal: how many times chance the recall at 1 is aimed at.
        held_out_name: what the held-out part is, in words.
    """

    title: str
    train: Source
    held_out: Source
    texts: Iterable[str]
    vocabulary: int
    held_out_name: str
    seen: Source | None = None
    labels: Sequence[str] = ()
    templates: Sequence[str] = ("{}",)
    held_out_labels: Sequence[int] = ()
    crop_area: tuple[float, float] | None = None
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
        vocabulary=600,  # an upper bound: the scenes' English needs fewer
        held_out_name="compositions that training never shows",
        labels=labels,
        templates=[sentence.pattern for sentence in english.subject_sentences[:_PROMPTS]],
        held_out_labels=sorted(HELD_OUT),
        zero_shot_goal=0.9,
        chance_times_goal=20,
    )


def folder(path: str) -> Task:
    """Somebody's own pictures; see `FolderSource` for what the folder may hold.

    The held-out part is what the table's "split" column calls test, validation, val or dev; without that column, the
    pictures whose name's hash falls into the last twentieth. Zero-shot is evaluated where a "label" column stands; its
    prompts are the sentences in which the training captions most often name a label.

    Args:
        path: the folder, or the table in it.

    Raises:
        ValueError: nothing there to train on, or nothing held out.
    """
    train = FolderSource(path, split="train")
    held_out = _first_split(path)
    labels = train.class_names or _numbered_labels(held_out)
    return Task(
        title=f"siglip_tf quickstart: {path.rstrip('/').rpartition('/')[2]}",
        train=train,
        held_out=held_out,
        texts=captions_of(train),
        vocabulary=4_000,
        held_out_name=f"{held_out.size:,} pictures held out of training",
        labels=labels,
        templates=prompts_from_captions(captions_of(train), labels) if labels else ("{}",),
        crop_area=(0.7, 1.0),  # a small set is seen many times over
    )


def captions_of(source: Source, limit: int = _MAX_CAPTIONS_READ) -> Iterator[str]:
    """The captions of a source's first records; records that cannot be read or hold no UTF-8 are passed over."""
    read = tf.data.Dataset.range(min(source.size, limit)).map(
        lambda index: source.read(index)["captions"], num_parallel_calls=tf.data.AUTOTUNE
    )
    for captions in read.ignore_errors().as_numpy_iterator():
        for caption in captions:
            text = caption.decode(errors="replace")
            if "\ufffd" not in text:
                yield text


def prompts_from_captions(captions: Iterable[str], labels: Sequence[str], count: int = _PROMPTS) -> list[str]:
    """The sentences in which captions name labels, most widely used first: the wording that the model has learned.

    Args:
        captions: of training pictures.
        labels: class names.
        count: how many at most.

    Returns:
        Prompts with one `{}`; general ones where captions do not name labels in common sentences.
    """
    name = re.compile(r"\b(" + "|".join(sorted(map(re.escape, labels), key=len, reverse=True)) + r")\b", re.IGNORECASE)
    uses: Counter[str] = Counter()
    named: defaultdict[str, set[str]] = defaultdict(set)
    for caption in captions:
        match = name.search(caption)
        if match and "{" not in caption and "}" not in caption:
            sentence = caption[: match.start()] + "{}" + caption[match.end() :]
            uses[sentence] += 1
            named[sentence].add(match[0].lower())
    common = [sentence for sentence in uses if len(named[sentence]) > len(labels) / 2]
    common.sort(key=lambda sentence: (-len(named[sentence]), -uses[sentence], sentence))
    return common[:count] or list(_FALLBACK_PROMPTS)


def _first_split(path: str) -> FolderSource:
    problems = []
    for split in _HELD_OUT_SPLITS:
        try:
            return FolderSource(path, split=split)
        except ValueError as error:
            problems.append(str(error))
    raise ValueError(f"Nothing is held out of {path}: call some rows of its split column 'test'. {problems[0]}")


def _numbered_labels(source: FolderSource) -> list[str]:
    """Labels given as numbers stand for themselves; none without labels."""
    labels = tf.data.Dataset.range(source.size).map(lambda index: source.read(index).get("label", -1)).ignore_errors()
    largest = max(labels.as_numpy_iterator(), default=-1)
    return [str(label) for label in range(int(largest) + 1)]
