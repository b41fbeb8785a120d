"""The losses as dense float64 numpy: the oracle."""

import numpy as np


def sigmoid(images, texts, log_temperature, bias, weights=None):
    """Algorithm 1 and its gradients: loss, d images, d texts, d log temperature, d bias."""
    x, y = np.asarray(images, np.float64), np.asarray(texts, np.float64)
    n, t = len(x), np.exp(np.float64(log_temperature))
    z = 2 * np.eye(n) - 1
    logits = t * x @ y.T + np.float64(bias)
    w = np.ones((n, n)) if weights is None else np.where(z > 0, 1, weights)
    loss = np.sum(w * np.logaddexp(0, -z * logits)) / n
    g = -w * z / (1 + np.exp(z * logits)) / n
    return loss, t * g @ y, t * g.T @ x, np.sum(g * (logits - np.float64(bias))), np.sum(g)


def softmax(images, texts, log_temperature):
    """The softmax loss of section 3.1 and its gradients: loss, d images, d texts, d log temperature."""
    x, y = np.asarray(images, np.float64), np.asarray(texts, np.float64)
    n, t = len(x), np.exp(np.float64(log_temperature))
    logits = t * x @ y.T
    rows, columns = (np.logaddexp.reduce(logits, axis=axis, keepdims=True) for axis in (1, 0))
    loss = np.mean(0.5 * (rows[:, 0] + columns[0]) - np.diag(logits))
    g = (0.5 * (np.exp(logits - rows) + np.exp(logits - columns)) - np.eye(n)) / n
    return loss, t * g @ y, t * g.T @ x, np.sum(g * logits)


def unit(rng, n, d=24):
    """n random unit vectors, float32 (n, d)."""
    v = rng.standard_normal((n, d))
    return (v / np.linalg.norm(v, axis=1, keepdims=True)).astype(np.float32)


def pairs(rng, n, d=24, alike=0.7):
    """Matching unit vectors with noise, so that positives are near and negatives are not: images, texts."""
    x = unit(rng, n, d).astype(np.float64)
    y = alike * x + (1 - alike) * unit(rng, n, d)
    return x.astype(np.float32), (y / np.linalg.norm(y, axis=1, keepdims=True)).astype(np.float32)


def relative_error(got, expected):
    """Largest difference over the largest expected magnitude."""
    got, expected = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    assert got.shape == expected.shape
    return np.max(np.abs(got - expected)) / np.max(np.abs(expected))
