"""The inputs of the loss, and its errors against float64."""

import numpy as np

LOG_TEMPERATURE, BIAS = np.float32(np.log(10)), np.float32(-10)
SAMPLE = 64  # rows and columns whose gradients are compared with float64 where the batch is large
WHOLE = 8192  # up to here all of them are, and the loss


def embeddings(n, dim):
    """Unit vectors with noise between the two sides of a pair: images, texts, float32 (n, dim)."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal((n, dim), np.float32)
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    texts = rng.standard_normal((n, dim), np.float32)
    texts = 0.7 * images + 0.3 * texts / np.linalg.norm(texts, axis=1, keepdims=True)
    return images, texts / np.linalg.norm(texts, axis=1, keepdims=True)


def errors(images, texts, loss, image_gradient, text_gradient):
    """Largest relative errors against float64: of the loss where all pairs can be visited, and of sampled gradients."""
    n = len(images)
    rows = np.arange(n) if n <= WHOLE else np.random.default_rng(1).choice(n, SAMPLE, replace=False)
    found = {}
    total = 0.0
    for name, own, other, gradient in (
        ("image gradient", images, texts, image_gradient),
        ("text gradient", texts, images, text_gradient),
    ):
        worst, largest = 0.0, 0.0
        for start in range(0, len(rows), 256):
            chosen = rows[start : start + 256]
            x, y = own[chosen].astype(np.float64), other.astype(np.float64)
            logits = np.exp(np.float64(LOG_TEMPERATURE)) * x @ y.T + np.float64(BIAS)
            z = np.where(chosen[:, None] == np.arange(n)[None, :], 1.0, -1.0)
            if name == "image gradient":
                total += np.sum(np.logaddexp(0, -z * logits)) / n
            slopes = -z / (1 + np.exp(z * logits)) / n
            expected = np.exp(np.float64(LOG_TEMPERATURE)) * slopes @ y
            worst = max(worst, np.max(np.abs(np.asarray(gradient)[chosen] - expected)))
            largest = max(largest, np.max(np.abs(expected)))
        found[name] = worst / largest
    if n <= WHOLE:
        found["loss"] = abs(float(loss) / total - 1)
    return found
