"""Calibrated probabilities: thresholds, scale, and bias from a labeled sample.

The sigmoid of a logit is small for almost every pair, because the model was trained on batches with one right text
among thousands. A sample of labeled pairs gives a threshold that reaches a given precision or recall. It also gives a
scale and a bias for the logits (Platt scaling), after which a probability of p means that a fraction p of such pairs
match.

Source: J. Platt, "Probabilistic Outputs for Support Vector Machines", 1999; "On Calibration of Modern Neural
Networks", https://arxiv.org/abs/1706.04599 (expected calibration error).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from siglip_tf.checkpoints.checkpoint import check_calibration


@dataclass(frozen=True)
class Threshold:
    """The lowest probability of a pair that counts as a match, with its precision and recall."""

    value: float
    precision: float
    recall: float


@dataclass(frozen=True)
class Curve:
    """A calibration curve: the mean probability, the fraction of matches, and the number of pairs of each bin.

    The bins hold equally many pairs and are in order of probability.
    """

    probability: np.ndarray
    matches: np.ndarray
    count: np.ndarray

    @property
    def error(self) -> float:
        """The expected calibration error: the mean of |probability - fraction of matches| over the pairs."""
        return float(np.sum(self.count * np.abs(self.probability - self.matches)) / self.count.sum())


def fit_scale_and_bias(logits: np.ndarray, matches: np.ndarray) -> tuple[float, float]:
    """Fits a scale a and a bias c that maximize the likelihood of `matches` under sigmoid(a * logit + c).

    The fit uses Newton's method and halves a step until the likelihood rises.

    Args:
        logits: (pairs,) of any float dtype.
        matches: bool (pairs,), whether each pair matches.

    Returns:
        The scale and the bias.

    Raises:
        ValueError: if a threshold separates the matches from the other pairs, because then the likelihood has no
            maximum, or if the scale is not positive, because then matches have the smaller logits.
    """
    logits, matches = _checked(logits, matches)
    high, low = logits[matches], logits[~matches]
    if high.min() > low.max() or high.max() < low.min():
        raise ValueError(
            "The sample's matches and its other pairs do not overlap, so no scale is the best. Fit a threshold alone, "
            "or take a larger sample."
        )
    center, width = logits.mean(), logits.std()
    x = np.stack([(logits - center) / width, np.ones_like(logits)], axis=1)
    weights = np.array([1.0, np.log(matches.mean() / (1 - matches.mean()))])
    signs = np.where(matches, 1.0, -1.0)

    def loss(weights):
        return np.logaddexp(0.0, -signs * (x @ weights)).mean()

    for _ in range(100):
        probabilities = _sigmoid(x @ weights)
        gradient = x.T @ (probabilities - matches) / len(x)
        hessian = (x * (probabilities * (1 - probabilities))[:, None]).T @ x / len(x)
        step = np.linalg.solve(hessian + 1e-12 * np.eye(2), gradient)
        size = 1.0
        while loss(weights - size * step) > loss(weights) and size > 1e-8:
            size /= 2
        weights = weights - size * step
        if np.abs(step).max() < 1e-10:
            break
    scale, bias = weights[0] / width, weights[1] - weights[0] * center / width
    if scale <= 0:
        raise ValueError(f"The sample's matches have the smaller logits: fitted scale {scale:.3g}. Check its labels.")
    return float(scale), float(bias)


def fit_threshold(
    probabilities: np.ndarray, matches: np.ndarray, *, precision: float | None = None, recall: float | None = None
) -> Threshold:
    """Returns the threshold that reaches a precision with the largest recall, or a recall with the largest precision.

    Args:
        probabilities: (pairs,) from 0 to 1.
        matches: bool (pairs,), whether each pair matches.
        precision: the precision to reach, in (0, 1].
        recall: the recall to reach, in (0, 1].

    Raises:
        ValueError: if not exactly one of `precision` and `recall` is given, or if no threshold reaches the precision.
    """
    asked = [value for value in (precision, recall) if value is not None]
    if len(asked) != 1 or not 0 < asked[0] <= 1:
        raise ValueError(f"Expected a precision or a recall in (0, 1]. Received: {precision} and {recall}.")
    probabilities, matches = _checked(probabilities, matches)
    order = np.argsort(-probabilities, kind="stable")
    ranked, hits = probabilities[order], np.cumsum(matches[order])
    last = np.append(ranked[1:] != ranked[:-1], True)  # equal probabilities cannot be told apart
    values, hits, found = ranked[last], hits[last], np.flatnonzero(last) + 1
    precisions, recalls = hits / found, hits / hits[-1]
    good = precisions >= precision if recall is None else recalls >= recall
    if not good.any():
        raise ValueError(
            f"No threshold reaches a precision of {precision}; the best of this sample is {precisions.max():.4g}."
        )
    # Among equal scores, take the lowest threshold for a precision and the highest one for a recall.
    score = recalls if recall is None else precisions
    best = np.flatnonzero(good & (score == score[good].max()))
    i = int(best[-1] if recall is None else best[0])
    return Threshold(float(values[i]), float(precisions[i]), float(recalls[i]))


def reliability(probabilities: np.ndarray, matches: np.ndarray, bins: int = 15) -> Curve:
    """Returns the calibration curve over bins of equally many pairs.

    Most probabilities are tiny. With bins of equal width, nearly all pairs would be in the first bin.
    """
    probabilities, matches = _checked(probabilities, matches)
    order = np.argsort(probabilities, kind="stable")
    parts = [part for part in np.array_split(order, min(bins, len(order))) if part.size]
    return Curve(
        np.array([probabilities[part].mean() for part in parts]),
        np.array([matches[part].mean() for part in parts]),
        np.array([part.size for part in parts]),
    )


def calibration_of(
    threshold: Threshold, asked: Mapping[str, float], pairs: int, labels: Mapping[str, Threshold] | None = None
) -> dict[str, Any]:
    """Returns the calibration that a checkpoint stores: a threshold, and further thresholds for some labels."""
    calibration = {
        "threshold": threshold.value,
        "asked": dict(asked),
        "reached": {"precision": threshold.precision, "recall": threshold.recall},
        "pairs": pairs,
        "labels": {name: found.value for name, found in (labels or {}).items()},
    }
    check_calibration(calibration)
    return calibration


def pairs_of(logits: np.ndarray, labels: Sequence) -> tuple[np.ndarray, np.ndarray]:
    """Converts logits (images, texts) and each image's right texts to logits (pairs,) and matches, bool (pairs,)."""
    matches = np.zeros(logits.shape, bool)
    for row, right in zip(matches, labels, strict=True):
        row[[i for i in np.atleast_1d(right) if i >= 0]] = True
    return logits.reshape(-1), matches.reshape(-1)


def _checked(values: np.ndarray, matches: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values, matches = np.asarray(values, np.float64), np.asarray(matches)
    if values.ndim != 1 or values.shape != matches.shape or matches.dtype != bool:
        shapes = f"{values.shape} and {matches.dtype} {matches.shape}"
        raise ValueError(f"Expected (pairs,) and bool (pairs,). Received: {shapes}.")
    if not np.isfinite(values).all():
        raise ValueError("Expected finite numbers. Received: a sample with NaN or infinity.")
    if matches.all() or not matches.any():
        found = f"{matches.sum()} of {len(matches)} match"
        raise ValueError(f"Expected pairs that match and pairs that do not. Received: {found}.")
    return values, matches


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0.0, -x))
