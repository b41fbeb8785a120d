"""Embeddings that a seed makes again: the golden numbers in these tests belong to them."""

import numpy as np


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def retrieval_example() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """500 images with 1 to 7 captions each, in mixed order; returns images, texts and the texts' images."""
    rng = np.random.default_rng(42)
    images = rng.normal(size=(500, 24))
    owner = rng.permutation(np.repeat(np.arange(500), rng.integers(1, 8, 500)))
    texts = images[owner] + 1.3 * rng.normal(size=(len(owner), 24))
    return unit(images), unit(texts), owner


def zero_shot_example() -> tuple[np.ndarray, np.ndarray, int, np.ndarray, np.ndarray]:
    """60 classes x 5 prompts and 1,003 images; returns images, prompts, 5, labels and ReaL-like label sets."""
    rng = np.random.default_rng(43)
    centres = rng.normal(size=(60, 16))
    prompts = (centres[:, None] + 0.8 * rng.normal(size=(60, 5, 16))).reshape(300, 16)
    labels = rng.integers(0, 60, 1003)
    images = centres[labels] + 1.2 * rng.normal(size=(1003, 16))
    several = np.stack([labels, rng.integers(-1, 60, 1003), rng.integers(-1, 60, 1003)], axis=1)
    several[rng.random(1003) < 0.05] = -1
    return unit(images), unit(prompts), 5, labels, several


def few_shot_example() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, int]:
    """17 classes; returns training features and labels, test features and labels, and 17."""
    rng = np.random.default_rng(44)
    centres = rng.normal(size=(17, 40))
    train_labels = rng.permutation(np.repeat(np.arange(17), rng.integers(12, 30, 17)))
    test_labels = rng.integers(0, 17, 900)
    train = centres[train_labels] + 2.0 * rng.normal(size=(len(train_labels), 40))
    test = centres[test_labels] + 2.0 * rng.normal(size=(900, 40))
    return train.astype(np.float32), train_labels, test.astype(np.float32), test_labels, 17
