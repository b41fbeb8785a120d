"""Evaluates a model on the held-out part: zero-shot accuracy and retrieval with chance, a baseline, and examples."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from siglip_tf.data.order.bad_records import diagnose
from siglip_tf.data.sources.base import Source
from siglip_tf.evaluation import Embedder, class_embeddings, retrieval, top_k, zero_shot
from siglip_tf.evaluation.report import thumbnail
from siglip_tf.evaluation.retrieval import RetrievalResult
from siglip_tf.experiments.held_out import MAX_EVALUATED, HeldOut
from siglip_tf.experiments.report.baseline import Baseline
from siglip_tf.experiments.report.page import Figure, Found, Mistake

_CLASS_QUERIES, _CAPTION_QUERIES, _FOUND_EACH = 6, 6, 8
_MISTAKES = 16
_LARGE_FILE, _THUMBNAIL = 40_000, 160  # bytes, pixels


@dataclasses.dataclass(frozen=True)
class Examples:
    """Usable examples in memory: encoded pictures, the captions of each, and labels (-1 means no label)."""

    images: list[bytes]
    captions: list[list[str]]
    labels: np.ndarray
    left_out: int

    @property
    def texts(self) -> list[str]:
        """All captions, picture by picture."""
        return [text for captions in self.captions for text in captions]

    @property
    def image_of_text(self) -> np.ndarray:
        """The index of the picture that each of `texts` describes, int (texts,)."""
        return np.repeat(np.arange(len(self.captions)), [len(captions) for captions in self.captions])


@dataclasses.dataclass(frozen=True)
class Assessment:
    """The parts of an evaluation that the report shows."""

    figures: list[Figure]
    found: list[Found]
    found_note: str
    mistakes: list[Mistake]
    mistakes_note: str
    examples: Examples


def load(source: Source, model: Any, limit: int = MAX_EVALUATED) -> Examples:
    """Loads the first `limit` examples of a source. Examples that cannot be used are counted and left out.

    Raises:
        ValueError: if no example can be used.
    """
    images, captions, labels, left_out = [], [], [], 0
    for index in range(min(source.size, limit)):
        try:
            example = source.fetch(index)
        except tf.errors.OpError:
            left_out += 1
            continue
        if diagnose(example, model.preprocessing.image) is not None:
            left_out += 1
            continue
        images.append(bytes(example["image"]))
        captions.append([text.decode() for text in example["captions"] if text.strip()])
        labels.append(int(example.get("label", -1)))
    if not images:
        raise ValueError(f"None of the first {left_out} examples of {source.name} can be used.")
    return Examples(images, captions, np.array(labels), left_out)


def assess(
    model: Any, task: HeldOut, say: Callable[[str], None], baseline: Baseline | None = None, batch_size: int = 200
) -> Assessment:
    """Evaluates a model on a task's held-out part.

    Args:
        model: a `SigLIP` with its preprocessing.
        task: the data to evaluate on.
        say: a function that receives a line of progress for each part.
        baseline: a baseline to compare with, or None.
        batch_size: number of pictures or texts per step.
    """
    embedder = Embedder(model, batch_size)
    examples = load(task.held_out, model)
    left_out = f"; {examples.left_out} broken ones left out" if examples.left_out else ""
    say(f"{len(examples.images):,} held-out pictures, {len(examples.texts):,} captions{left_out}")
    images = embedder.images(_dataset(examples))
    texts = embedder.texts(examples.texts)

    figures, mistakes, class_queries, mistakes_note = [], [], [], ""
    if len(task.labels):
        classes = class_embeddings(embedder.texts, task.labels, task.templates)
        classified = zero_shot(images, classes, examples.labels)
        everything = len(task.labels)
        figures.append(
            Figure(
                f"Zero-shot accuracy over {everything} classes",
                classified.top1,
                1 / everything,
                task.zero_shot_goal,
                f"pictures of {task.held_out_name}",
                {} if baseline is None else {baseline.name: baseline.accuracy(examples.images, examples.labels)},
            )
        )
        if task.held_out_labels:
            among = zero_shot(images, classes, examples.labels, class_subset=task.held_out_labels)
            count = len(task.held_out_labels)
            note = "the same pictures, told that only these classes occur"
            figures.append(
                Figure(f"Zero-shot accuracy over the {count} held-out classes", among.top1, 1 / count, None, note)
            )
        if task.seen is not None:
            seen = load(task.seen, model)
            accuracy = zero_shot(embedder.images(_dataset(seen)), classes, seen.labels).top1
            note = "new pictures of compositions that training showed"
            figures.append(
                Figure(f"Zero-shot accuracy over {everything} classes, seen", accuracy, 1 / everything, None, note)
            )
        mistakes = _mistakes(task, examples, classified)
        wrong = round((1 - classified.top1) * classified.images)
        mistakes_note = f"Of {wrong:,} pictures in the wrong class those of which the model is surest."
        class_queries = _class_queries(task, examples, images, classes)

    result = retrieval(images, texts, examples.image_of_text, recall_at=(1, 5))
    figures += _retrieval_figures(task, examples, result, baseline)
    if not task.labels:
        mistakes = _worst_ranked(examples, images, texts, result)
        mistakes_note = "The pictures whose own captions the model ranked worst, with the caption that it ranked first."
    found = class_queries + _caption_queries(examples, images, texts, 2 * _CAPTION_QUERIES - len(class_queries))
    note = "The eight nearest of all held-out pictures, best first. "
    note += "Green: of the class asked for, or the one picture that the caption was written for."
    return Assessment(figures, found, note, mistakes, mistakes_note, examples)


def _dataset(examples: Examples) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices({"image": examples.images})


def _retrieval_figures(
    task: HeldOut, examples: Examples, result: RetrievalResult, baseline: Baseline | None
) -> list[Figure]:
    images, texts = examples.images, examples.texts
    note = f"among {len(images):,} pictures and {len(texts):,} captions; many a caption fits several pictures"
    captions_each = [len(captions) for captions in examples.captions]
    rows = []
    for name, recalls, chance in (
        # A picture has c right captions among m. At rank 1, chance is c / m; at rank k, about k times that.
        ("Image to text", result.image_to_text, float(np.mean(captions_each)) / len(texts)),
        ("Text to image", result.text_to_image, 1 / len(images)),
    ):
        for k, recall in recalls.items():
            guess = min(1.0, k * chance)
            goal = None
            # With few pictures, the goal would be above 100 %.
            if task.chance_times_goal and k == 1 and task.chance_times_goal * guess < 1.0:
                goal = task.chance_times_goal * guess
            baselines = {}
            if baseline is not None and k == 1 and name == "Image to text" and not task.labels:
                baselines[baseline.name] = baseline.recall(examples.images, examples.captions)
            rows.append(Figure(f"{name} R@{k}", recall, guess, goal, note if k == 1 else "", baselines))
    return rows


def _class_queries(task: HeldOut, examples: Examples, images: np.ndarray, classes: np.ndarray) -> list[Found]:
    """Returns some of the classes that occur, evenly spread, with the pictures that they find."""
    occurring = np.unique(examples.labels[examples.labels >= 0])
    chosen = occurring[np.linspace(0, len(occurring) - 1, min(_CLASS_QUERIES, len(occurring))).round().astype(int)]
    best, _ = top_k(classes[chosen], images, min(_FOUND_EACH, len(images)))
    template = task.templates[min(1, len(task.templates) - 1)]
    return [
        Found(
            template.format(task.labels[label]),
            [(shown(examples.images[i]), bool(examples.labels[i] == label)) for i in row],
        )
        for label, row in zip(chosen, best, strict=True)
    ]


def _caption_queries(examples: Examples, images: np.ndarray, texts: np.ndarray, count: int) -> list[Found]:
    """Returns the longest caption of each of the first pictures, with the pictures that it finds."""
    owner = examples.image_of_text
    all_texts = examples.texts
    chosen = [
        max(np.flatnonzero(owner == picture), key=lambda text: len(all_texts[text]))
        for picture in range(min(count, len(examples.images)))
    ]
    best, _ = top_k(texts[chosen], images, min(_FOUND_EACH, len(images)))
    return [
        Found(all_texts[text], [(shown(examples.images[i]), bool(i == owner[text])) for i in row])
        for text, row in zip(chosen, best, strict=True)
    ]


def _worst_ranked(examples: Examples, images: np.ndarray, texts: np.ndarray, result: RetrievalResult) -> list[Mistake]:
    """Returns the pictures whose own captions rank worst, with the caption that ranks first instead."""
    worst = np.argsort(-result.image_ranks, kind="stable")[:_MISTAKES]
    worst = worst[result.image_ranks[worst] > 0]
    if not len(worst):
        return []
    best, _ = top_k(images[worst], texts, 1)
    all_texts = examples.texts
    return [
        Mistake(shown(examples.images[i]), examples.captions[i][0], all_texts[row[0]])
        for i, row in zip(worst, best, strict=True)
    ]


def shown(picture: bytes) -> bytes:
    """Returns the encoded picture for a page. A large file is replaced with a smaller copy."""
    return picture if len(picture) <= _LARGE_FILE else thumbnail(picture, _THUMBNAIL)


def _mistakes(task: HeldOut, examples: Examples, result: Any) -> list[Mistake]:
    answers = result.top[:, 0]
    truths = examples.labels[result.counted]
    wrong = np.flatnonzero(answers != truths)
    wrong = wrong[np.argsort(-result.scores[wrong, 0], kind="stable")][:_MISTAKES]
    return [
        Mistake(shown(examples.images[result.counted[i]]), task.labels[truths[i]], task.labels[answers[i]])
        for i in wrong
    ]
