"""Few-shot linear classification by ridge regression on whitened features (the 10-shot results of section 4.5)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from siglip_tf.evaluation.ranking import check_embeddings

BIAS_FEATURE = 100.0  # so large that the bias is hardly regularized
L2 = 2.0**10


@dataclass(frozen=True)
class FewShotResult:
    """Accuracies on the test set from 0 to 1: one per seed, and their mean."""

    accuracy: float
    per_seed: tuple[float, ...]
    shots: int

    def to_dict(self) -> dict[str, float]:
        """Returns the accuracies by the names under which they are logged."""
        seeds = {f"{self.shots}shot_seed{seed}": value for seed, value in enumerate(self.per_seed)}
        return {f"{self.shots}shot": self.accuracy} | seeds


def draw_shots(labels: np.ndarray, classes: int, shots: int, seed: int) -> np.ndarray:
    """Draws `shots` training examples of every class, or all examples of a class that has fewer.

    The draw is the same as in big_vision: one `numpy.random.default_rng(seed)`, and a permutation for each class in
    order.

    Returns:
        The indices of the examples, int (drawn,).

    Raises:
        ValueError: if a class has no example.
    """
    rng = np.random.default_rng(seed)
    drawn = []
    for label in range(classes):
        members = np.flatnonzero(labels == label)
        if members.size == 0:
            raise ValueError(f"Class {label} has no training example: few-shot needs at least one of each class.")
        drawn.append(rng.permutation(members)[:shots])
    return np.concatenate(drawn)


def ridge_classifier(features: np.ndarray, labels: np.ndarray, classes: int, l2: float = L2) -> np.ndarray:
    """Returns the weights of the ridge regression on targets +1 and -1.

    With X (n, d + 1) and Y (n, classes), the weights are (X^T X + l2 I)^-1 X^T Y, or in the dual form
    X^T (X X^T + l2 I)^-1 Y. The smaller of the two systems is solved.

    Args:
        features: whitened features and the bias feature, float64 (n, d + 1).
        labels: int (n,).
        classes: the number of classes.
        l2: the strength of the regularization.

    Returns:
        Weights, float64 (d + 1, classes).
    """
    targets = np.where(labels[:, None] == np.arange(classes), 1.0, -1.0)
    count, width = features.shape
    if count >= width:
        gram = features.T @ features
        return np.linalg.solve(gram + l2 * np.eye(width), features.T @ targets)
    gram = features @ features.T
    return features.T @ np.linalg.solve(gram + l2 * np.eye(count), targets)


def few_shot(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    test_labels: np.ndarray,
    classes: int,
    *,
    shots: int = 10,
    seeds: int = 3,
    l2: float = L2,
    draws: Sequence[np.ndarray] | None = None,
) -> FewShotResult:
    """Returns the accuracy of the closed-form probe, averaged over several draws of the training examples.

    Args:
        train_features: image features (train, d).
        train_labels: int (train,), from 0 to classes - 1.
        test_features: image features (test, d).
        test_labels: int (test,).
        classes: the number of classes.
        shots: number of training examples per class.
        seeds: number of draws. Their seeds are 0 to seeds - 1.
        l2: the strength of the regularization.
        draws: indices of the training examples of each draw, to use instead of `draw_shots`.

    Raises:
        ValueError: if shapes or labels do not match, or a class has no training examples.

    Source: big_vision `evaluators/fewshot_lsr.py` (whitening by the drawn examples' mean and std + 1e-5).
    """
    train = check_embeddings(train_features, "train_features").astype(np.float64)
    test = check_embeddings(test_features, "test_features").astype(np.float64)
    train_labels, test_labels = np.asarray(train_labels), np.asarray(test_labels)
    for name, features, labels in (("train", train, train_labels), ("test", test, test_labels)):
        if labels.shape != (len(features),) or labels.min() < 0 or labels.max() >= classes:
            raise ValueError(
                f"`{name}_labels` must be ({len(features)},) in 0..{classes - 1}. Received: {labels.shape}."
            )
    if train.shape[1] != test.shape[1]:
        raise ValueError(f"Train and test features differ in width: {train.shape[1]} and {test.shape[1]}.")
    if shots < 1 or seeds < 1 or l2 <= 0:
        raise ValueError(f"Expected shots, seeds >= 1 and l2 > 0. Received: {shots}, {seeds}, {l2}.")
    if draws is None:
        draws = [draw_shots(train_labels, classes, shots, seed) for seed in range(seeds)]
    accuracies = []
    for drawn in draws:
        mean = train[drawn].mean(axis=0)
        deviation = train[drawn].std(axis=0) + 1e-5
        weights = ridge_classifier(_with_bias((train[drawn] - mean) / deviation), train_labels[drawn], classes, l2)
        predictions = (_with_bias((test - mean) / deviation) @ weights).argmax(axis=1)
        accuracies.append(float((predictions == test_labels).mean()))
    return FewShotResult(float(np.mean(accuracies)), tuple(accuracies), shots)


def _with_bias(features: np.ndarray) -> np.ndarray:
    return np.pad(features, ((0, 0), (0, 1)), constant_values=BIAS_FEATURE)
