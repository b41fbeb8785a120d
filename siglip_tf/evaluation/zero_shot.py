"""Zero-shot classification with class names and prompt templates (the paper's section 4)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from siglip_tf.data import canonicalize
from siglip_tf.evaluation.ranking import check_embeddings, top_k


def make_prompts(class_names: Sequence[str], templates: Sequence[str], canonical: bool = True) -> list[str]:
    """Returns every class name in every template, class by class: `len(class_names) * len(templates)` strings.

    Args:
        class_names: one name per class.
        templates: strings with exactly one `{}`.
        canonical: whether to canonicalize names and templates: remove punctuation, convert `_` to a space and letters
            to lower case, and join repeated spaces.

    Raises:
        ValueError: if there are no names or templates, a name is empty, or a template does not contain exactly one
            `{}`.
    """
    if not class_names or not templates:
        raise ValueError(f"Expected class names and templates. Received: {len(class_names)} and {len(templates)}.")
    for template in templates:
        if template.count("{}") != 1:
            raise ValueError(f"A template needs exactly one `{{}}`. Received: {template!r}.")
    names = [canonicalize(name) if canonical else name for name in class_names]
    for i, name in enumerate(names):
        if not name.strip():
            raise ValueError(f"Class {i} has an empty name: {class_names[i]!r}.")
    templates = [canonicalize(template, keep="{}") if canonical else template for template in templates]
    return [template.replace("{}", name) for name in names for template in templates]


def average_prompts(prompt_embeddings: np.ndarray, templates: int) -> np.ndarray:
    """Averages prompt embeddings to class embeddings.

    Each prompt is l2-normalized, the mean over the templates is taken, and the mean is l2-normalized. The epsilon is
    1e-8, as in the model.

    Args:
        prompt_embeddings: (classes * templates, d), class by class.
        templates: the number of prompts per class.

    Returns:
        Unit vectors, float32 (classes, d).

    Raises:
        ValueError: if the number of prompts is not a multiple of `templates`.
    """
    embeddings = check_embeddings(prompt_embeddings, "prompt_embeddings").astype(np.float64)
    if len(embeddings) % templates:
        raise ValueError(f"{len(embeddings)} prompts are not a multiple of {templates} templates.")
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True) + 1e-8
    mean = embeddings.reshape(-1, templates, embeddings.shape[1]).mean(axis=1)
    return (mean / (np.linalg.norm(mean, axis=1, keepdims=True) + 1e-8)).astype(np.float32)


def class_embeddings(
    embed_texts: Callable[[list[str]], np.ndarray],
    class_names: Sequence[str],
    templates: Sequence[str] = ("{}",),
    canonical: bool = True,
) -> np.ndarray:
    """Returns the embeddings of classes, float32 unit vectors (classes, d).

    Args:
        embed_texts: a function that maps n strings to embeddings (n, d).
        class_names: one name per class.
        templates: strings with exactly one `{}`.
        canonical: see `make_prompts`.
    """
    prompts = make_prompts(class_names, templates, canonical)
    return average_prompts(embed_texts(prompts), len(templates))


@dataclass(frozen=True)
class ZeroShotResult:
    """Accuracies from 0 to 1, and the predictions from which they are computed.

    `top` holds the ids of the five best classes of each counted image, and `scores` their cosines. `counted` holds the
    positions of the counted images among all images.
    """

    top1: float
    top5: float
    mean_per_class: float
    per_class: dict[int, float]  # top-1 by the (first) right label
    images: int
    left_out: int  # images without any label, as ReaL has them
    top: np.ndarray  # (images, min(5, classes)) int64
    scores: np.ndarray  # (images, min(5, classes)) float64
    counted: np.ndarray  # (images,) int64

    def to_dict(self) -> dict[str, float]:
        """Returns the accuracies by the names under which they are logged."""
        return {"top1": self.top1, "top5": self.top5, "mean_per_class": self.mean_per_class}


def zero_shot(
    image_embeddings: np.ndarray,
    classes: np.ndarray,
    labels: np.ndarray,
    class_subset: Sequence[int] | None = None,
    chunk_size: int | None = None,
) -> ZeroShotResult:
    """Returns the accuracy of predicting the class whose embedding has the largest dot product with the image's.

    Among equal scores, the class with the lower id is predicted.

    Args:
        image_embeddings: (images, d), l2-normalized.
        classes: (classes, d) from `class_embeddings`.
        labels: int (images,), or int (images, k) padded with -1 if several labels may be right. Then any of them counts
            as right, as in ReaL. Images without a label are left out and counted in `left_out`.
        class_subset: the ids of the classes that may be predicted (ImageNet-A and -R use 200 of the 1,000).
        chunk_size: the side of the blocks of scores in memory. It does not change the result.

    Raises:
        ValueError: if shapes or label ids do not match, or all labels of an image are outside `class_subset`.

    Source: big_vision `evaluators/proj/image_text/discriminative_classifier.py`; ReaL is arXiv:2006.07159.
    """
    images = check_embeddings(image_embeddings, "image_embeddings")
    classes = check_embeddings(classes, "classes")
    if images.shape[1] != classes.shape[1]:
        raise ValueError(f"Image and class embeddings differ in width: {images.shape[1]} and {classes.shape[1]}.")
    labels = _checked_labels(labels, len(images), len(classes))
    allowed = np.arange(len(classes)) if class_subset is None else np.unique(np.asarray(class_subset, np.int64))
    if allowed.size == 0 or allowed[0] < 0 or allowed[-1] >= len(classes):
        raise ValueError(
            f"`class_subset` must name classes in 0..{len(classes) - 1}. Received: {allowed.tolist()[:10]}."
        )

    counted = np.flatnonzero((labels >= 0).any(axis=1))
    if counted.size == 0:
        raise ValueError("No image has a label.")
    labels = labels[counted]
    outside = ~np.isin(labels, allowed).any(axis=1)
    if outside.any():
        i = int(np.flatnonzero(outside)[0])
        raise ValueError(f"Image {counted[i]} has labels {labels[i].tolist()}, none of them in `class_subset`.")
    top, scores = top_k(images[counted], np.ascontiguousarray(classes[allowed]), 5, chunk_size)
    top = allowed[top]
    hits = (top[:, :, None] == labels[:, None, :]).any(axis=2)  # (images, 5)
    first_label = labels[np.arange(len(labels)), (labels >= 0).argmax(axis=1)]
    per_class = {int(c): float(hits[first_label == c, 0].mean()) for c in np.unique(first_label)}
    return ZeroShotResult(
        top1=float(hits[:, 0].mean()),
        top5=float(hits.any(axis=1).mean()),
        mean_per_class=float(np.mean(list(per_class.values()))),
        per_class=per_class,
        images=len(counted),
        left_out=len(images) - len(counted),
        top=top,
        scores=scores,
        counted=counted,
    )


def present_classes(labels: np.ndarray) -> np.ndarray:
    """Returns the ids of the classes that occur in labels (images,) or (images, k), where -1 means no label.

    These are the class subsets of ImageNet-A and -R.
    """
    return np.unique(labels[labels >= 0])


def _checked_labels(labels: np.ndarray, images: int, classes: int) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.ndim == 1:
        labels = labels[:, None]
    if labels.ndim != 2 or len(labels) != images or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"`labels` must be ({images},) or ({images}, k) int. Received: {labels.shape} {labels.dtype}.")
    if labels.size == 0 or labels.min() < -1 or labels.max() >= classes:
        raise ValueError(f"Labels must lie in 0..{classes - 1}, or be -1 for none.")
    return labels.astype(np.int64)
