"""Tasks: each has an image set, and computes metrics and examples on it."""

import abc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from siglip_tf.evaluation.embed import Embedder
from siglip_tf.evaluation.few_shot import draw_shots, few_shot
from siglip_tf.evaluation.image_set import ImageSet, left_out_note
from siglip_tf.evaluation.ranking import top_k
from siglip_tf.evaluation.results import Answer, Query, TaskResult
from siglip_tf.evaluation.retrieval import RECALL_AT, RetrievalResult, retrieval
from siglip_tf.evaluation.zero_shot import class_embeddings, present_classes, zero_shot

_SHOWN = 12  # examples of a kind in the report
_SHOWN_ANSWERS = 5


class Evaluation:
    """Runs tasks on a model. It caches image embeddings, so that tasks on the same image set share them.

    Args:
        embedder: the embedder of the model.
        progress: a function that is called with the name of a set, the number of images done (0 at the start), and
            their total.
    """

    def __init__(self, embedder: Embedder, progress: Callable[[str, int, int], None] | None = None):
        self.embedder = embedder
        self._progress = progress
        self._images: dict[int, tuple[ImageSet, ImageSet, np.ndarray]] = {}
        model = embedder.model
        self.temperature = float(np.exp(np.asarray(model.log_temperature)))
        self.bias = 0.0 if model.bias is None else float(np.asarray(model.bias))

    def images(self, image_set: ImageSet, pooled: bool = False) -> tuple[ImageSet, np.ndarray]:
        """Returns the set without the images that cannot be decoded, and its embeddings, float32 (images, d).

        A note in the set counts the images that are left out.
        """
        key = id(image_set) if not pooled else -id(image_set)
        if key not in self._images:
            self._say(image_set, 0)
            vectors, positions = self.embedder.sound_images(
                image_set.examples, pooled=pooled, progress=lambda done: self._say(image_set, done)
            )
            # Keep a reference to the set, so that Python does not reuse its id for another one.
            self._images[key] = image_set, self._sound(image_set, positions), vectors
        _, sound, vectors = self._images[key]
        return sound, vectors

    def _sound(self, image_set: ImageSet, positions: np.ndarray) -> ImageSet:
        broken = np.setdiff1d(np.arange(len(image_set)), positions)
        if not broken.size:
            return image_set
        self._say(image_set, len(image_set))
        named = self.embedder.broken_images(image_set.examples, broken[:3].tolist())
        reasons = {image_set.ids[i]: named.get(i, ("", "cannot be decoded"))[1] for i in broken}
        sound = image_set.subset(positions)
        return replace(sound, notes=(*sound.notes, left_out_note(len(image_set), reasons)))

    def _say(self, image_set: ImageSet, done: int) -> None:
        if self._progress is not None:
            self._progress(image_set.name, done, len(image_set))

    def logit(self, cosine: float) -> float:
        """Returns t * cosine + b."""
        return self.temperature * cosine + self.bias

    def run(self, tasks: Sequence["Task"]) -> list[TaskResult]:
        """Returns the results of all tasks, in order.

        Raises:
            ValueError: if a task needs a tokenizer that the model does not have, or no image of a set can be decoded.
        """
        if any(task.reads_texts for task in tasks):
            self.embedder.require_tokenizer()
        results = []
        for task in tasks:
            start = time.monotonic()
            result = task.run(self)
            results.append(replace(result, seconds=time.monotonic() - start))
        return results


class Task(abc.ABC):
    """An image set and what to measure on it.

    Attributes:
        name: the first part of the names of its metrics.
        metric_names: the metrics that `run` reports, without the task's name. The most important one is first.
        reads_texts: whether the model needs a tokenizer.
    """

    reads_texts: bool = True

    if TYPE_CHECKING:  # a subclass may have properties or plain attributes

        @property
        def name(self) -> str: ...

        @property
        def metric_names(self) -> tuple[str, ...]: ...

    @abc.abstractmethod
    def run(self, evaluation: Evaluation) -> TaskResult:
        """Evaluates the task and returns its metrics and examples."""


@dataclass(frozen=True)
class ZeroShotTask(Task):
    """Zero-shot classification of a labeled image set.

    Args:
        images: the set, with labels and class names.
        templates: prompts with one `{}`.
        class_subset: the ids of the classes that may be predicted. "present" means the classes that occur, and None
            means all classes.

    Raises:
        ValueError: if the set has no labels or no class names.
    """

    images: ImageSet
    templates: Sequence[str] = ("a photo of a {}",)
    class_subset: Sequence[int] | np.ndarray | str | None = None

    def __post_init__(self):
        if self.images.labels is None or self.images.class_names is None:
            raise ValueError(
                f"{self.images.name} has no labels, or no names for them: zero-shot classification needs both. Name "
                "the classes with class_names=FILE."
            )

    @property
    def name(self) -> str:
        return f"zero_shot/{self.images.name}"

    @property
    def metric_names(self) -> tuple[str, ...]:
        return ("top1", "top5", "mean_per_class")

    def run(self, evaluation: Evaluation) -> TaskResult:
        images, names = self.images, self.images.class_names
        chosen = self.class_subset
        if isinstance(chosen, str):
            chosen = present_classes(images.labels)
        subset = None if chosen is None else np.asarray(chosen).tolist()
        classes = class_embeddings(evaluation.embedder.texts, names, self.templates)
        images, vectors = evaluation.images(images)
        result = zero_shot(vectors, classes, images.labels, subset)
        labels = images.labels[result.counted].reshape(result.images, -1)
        right = (result.top[:, :, None] == labels[:, None, :]).any(axis=2)
        first = labels[np.arange(len(labels)), (labels >= 0).argmax(axis=1)]
        count = len(names) if subset is None else len(subset)
        right_labels = float((labels >= 0).sum(axis=1).mean())
        notes = [f"{len(names)} classes" + ("" if count == len(names) else f", {count} of them may be predicted")]
        if result.left_out:
            notes.append(f"{result.left_out} images without a label are left out")

        def query(i: int) -> Query:
            answers = tuple(
                Answer(bool(ok), evaluation.logit(score), text=names[c])
                for c, score, ok in zip(result.top[i], result.scores[i], right[i], strict=True)
            )
            rank = int(right[i].argmax()) if right[i].any() else len(answers)
            truth = ", ".join(names[c] for c in labels[i] if c >= 0)
            return Query(rank, answers, text=truth, image=int(result.counted[i]))

        hit = right[:, 0]
        margin = result.scores[:, 0]
        wrong = np.flatnonzero(~hit)
        wrong = wrong[np.argsort(-margin[wrong], kind="stable")]  # the highest score first
        return TaskResult(
            self.name,
            "zero_shot",
            result.images,
            result.to_dict(),
            {"top1": right_labels / count, "top5": min(1.0, 5 * right_labels / count), "mean_per_class": 1 / count},
            notes=(*notes, *images.notes),
            rows={
                names[c]: {"top1": value, "images": float((first == c).sum())} for c, value in result.per_class.items()
            },
            confusions=_confusions(first[wrong], result.top[wrong, 0], names),
            queries={
                "Right": tuple(query(i) for i in _spread(np.flatnonzero(hit))),
                "Wrong, the surest first": tuple(query(i) for i in wrong[:_SHOWN]),
            },
            images_of=images,
        )


@dataclass(frozen=True)
class RetrievalTask(Task):
    """Retrieval between a set's images and their captions, in one language or in several.

    Args:
        images: the set, with `captions` or `languages`. Images without a caption are left out.

    Raises:
        ValueError: if the set has no captions.
    """

    images: ImageSet

    def __post_init__(self):
        if self.images.captions is None and not self.images.languages:
            raise ValueError(f"{self.images.name} has no captions: retrieval needs them.")

    @property
    def name(self) -> str:
        return f"retrieval/{self.images.name}"

    @property
    def metric_names(self) -> tuple[str, ...]:
        return tuple(f"{way}_R@{k}" for way in ("image_to_text", "text_to_image") for k in RECALL_AT)

    def run(self, evaluation: Evaluation) -> TaskResult:
        images, vectors = evaluation.images(self.images)
        languages = images.languages or {"": images.captions}
        rows, notes, chances = {}, [], []
        queries: dict[str, tuple[Query, ...]] = {}
        for language, captions in languages.items():
            kept = np.array([i for i, several in enumerate(captions) if several])
            if not kept.size:
                continue
            texts = [caption for i in kept for caption in captions[i]]
            owner = np.repeat(np.arange(len(kept)), [len(captions[i]) for i in kept])
            text_vectors = evaluation.embedder.texts(texts)
            result = retrieval(vectors[kept], text_vectors, owner)
            rows[language] = result.to_dict()
            chances.append(_retrieval_chance(owner))
            if len(kept) < len(captions):
                notes.append(f"{language} {len(captions) - len(kept)} images without a caption are left out".strip())
            if not queries or language == "en":
                queries = _retrieval_queries(evaluation, vectors, kept, text_vectors, texts, owner, result)
        if not rows:
            raise ValueError(f"{images.name}: no image that can be decoded has a caption.")
        mean = {name: float(np.mean([row[name] for row in rows.values()])) for name in next(iter(rows.values()))}
        chance = {name: float(np.mean([c[name] for c in chances])) for name in chances[0]}
        if images.languages:
            notes.insert(0, f"mean of {len(rows)} languages")
        return TaskResult(
            self.name,
            "retrieval",
            len(images),
            mean,
            chance,
            notes=(*notes, *images.notes),
            rows=rows if images.languages else {},
            queries=queries,
            images_of=images,
        )


@dataclass(frozen=True)
class FewShotTask(Task):
    """The closed-form linear probe on the image tower's pooled output.

    Args:
        train: the labeled set to draw examples from. Only the drawn images are embedded.
        test: a labeled set with the same classes.
        shots: number of examples per class.
        seeds: number of draws.

    Raises:
        ValueError: if a set does not have exactly one label per image, or the sets have different classes.
    """

    train: ImageSet
    test: ImageSet
    shots: int = 10
    seeds: int = 3
    reads_texts = False

    def __post_init__(self):
        for images in (self.train, self.test):
            if images.labels is None or images.labels.ndim != 1:
                raise ValueError(f"{images.name} has no single label for each image: a linear probe needs one.")
        if self.train.class_names != self.test.class_names:
            raise ValueError(f"{self.train.name} and {self.test.name} have different classes.")

    @property
    def name(self) -> str:
        return f"few_shot/{self.test.name}"

    @property
    def metric_names(self) -> tuple[str, ...]:
        return (f"{self.shots}shot",)

    def run(self, evaluation: Evaluation) -> TaskResult:
        classes = len(self.train.class_names)
        draws = [draw_shots(self.train.labels, classes, self.shots, seed) for seed in range(self.seeds)]
        drawn = np.unique(np.concatenate(draws))
        train, train_vectors = evaluation.images(self.train.subset(drawn), pooled=True)
        test, test_vectors = evaluation.images(self.test, pooled=True)
        if len(train) < len(drawn):
            raise ValueError(f"{train.name}: {train.notes[-1]}; a probe needs every drawn image. Remove them.")
        result = few_shot(
            train_vectors,
            train.labels,
            test_vectors,
            test.labels,
            classes,
            shots=self.shots,
            draws=[np.searchsorted(drawn, indices) for indices in draws],
        )
        seeds = {f"seed {seed}": {"accuracy": value} for seed, value in enumerate(result.per_seed)}
        metrics = {f"{self.shots}shot": result.accuracy}
        notes = (f"{classes} classes, mean of {self.seeds} draws", *test.notes)
        chance = {f"{self.shots}shot": 1 / classes}
        return TaskResult(self.name, "few_shot", len(test), metrics, chance, notes=notes, rows=seeds)


def _confusions(right: np.ndarray, predicted: np.ndarray, names: Sequence[str]) -> tuple[tuple[str, str, int], ...]:
    pairs, counts = np.unique(np.stack([right, predicted], axis=1), axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:30]
    return tuple((names[pairs[i][0]], names[pairs[i][1]], int(counts[i])) for i in order)


def _spread(indices: np.ndarray) -> np.ndarray:
    """Returns at most `_SHOWN` of the indices, evenly spread."""
    if len(indices) <= _SHOWN:
        return indices
    return indices[np.linspace(0, len(indices) - 1, _SHOWN).round().astype(int)]


def _retrieval_chance(owner: np.ndarray) -> dict[str, float]:
    """Returns the recalls of a random ranking.

    From text to image, this is the chance that one image is among k of all images. From image to text, it is the chance
    that at least one of c right captions is among k of all captions.
    """
    texts, captions = len(owner), np.bincount(owner)
    chance = {}
    for k in RECALL_AT:
        miss = np.ones(len(captions))
        for j in range(min(k, texts)):
            miss *= np.maximum(0, texts - captions - j) / (texts - j)
        chance[f"image_to_text_R@{k}"] = float(1 - miss.mean())
        chance[f"text_to_image_R@{k}"] = min(1.0, k / len(captions))
    return chance


def _retrieval_queries(
    evaluation: Evaluation,
    vectors: np.ndarray,
    kept: np.ndarray,
    text_vectors: np.ndarray,
    texts: Sequence[str],
    owner: np.ndarray,
    result: RetrievalResult,
) -> dict[str, tuple[Query, ...]]:
    """Returns texts and images evenly spread over the set, and those whose right answers ranked worst."""

    def texts_to_images(chosen: np.ndarray) -> tuple[Query, ...]:
        found, scores = top_k(text_vectors[chosen], vectors[kept], _SHOWN_ANSWERS)
        return tuple(
            Query(
                int(result.text_ranks[t]),
                tuple(
                    Answer(bool(owner[t] == i), evaluation.logit(s), image=int(kept[i]))
                    for i, s in zip(*pair, strict=True)
                ),
                text=texts[t],
            )
            for t, *pair in zip(chosen, found, scores, strict=True)
        )

    def images_to_texts(chosen: np.ndarray) -> tuple[Query, ...]:
        found, scores = top_k(vectors[kept[chosen]], text_vectors, _SHOWN_ANSWERS)
        return tuple(
            Query(
                int(result.image_ranks[i]),
                tuple(
                    Answer(bool(owner[t] == i), evaluation.logit(s), text=texts[t]) for t, s in zip(*pair, strict=True)
                ),
                image=int(kept[i]),
            )
            for i, *pair in zip(chosen, found, scores, strict=True)
        )

    def worst(ranks: np.ndarray) -> np.ndarray:
        return np.argsort(-ranks, kind="stable")[: _SHOWN // 2]

    return {
        "Texts and the images found": texts_to_images(_spread(np.arange(len(texts)))),
        "Texts whose image ranked worst": texts_to_images(worst(result.text_ranks)),
        "Images and the captions found": images_to_texts(_spread(np.arange(len(kept)))),
        "Images whose captions ranked worst": images_to_texts(worst(result.image_ranks)),
    }
