"""First weights of a text tower from the training pairs: one vector per token.

With only a few thousand pairs, a text tower that starts at random needs hundreds of epochs to learn the words. If the
first weights of the image tower already separate the pictures, each caption has a target: the embedding of its picture.
A ridge regression finds one vector per token such that the sum over a caption's tokens is close to its target. The
tower starts as this sum. Its token table holds the vectors, its last block attends to all positions equally, and its
other branches start small. Training then learns what the order of words means.

Source: Hoerl and Kennard, "Ridge Regression", 1970; "LiT", https://arxiv.org/abs/2111.07991 (a text tower that learns
to match the embeddings of an image tower).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from siglip_tf.data import Preprocessing

_BATCH, _ROWS = 250, 4_096
# The ridge, in captions. It keeps the vectors of rare tokens from fitting the noise in a few pictures.
_RIDGE = 0.1
# The length of a token's vector, and of a text's sum of vectors in the last block, relative to the length of a position
# embedding.
_TOKEN, _TEXT = 0.3, 1.0

_ENDS_A_BRANCH = re.compile(r"text/block_\d+/(attention/out|mlp/fc2)/kernel")
_SMALL = np.float32(0.1)


def first_words(
    model: Any,
    pixels: np.ndarray,
    ids: np.ndarray,
    picture: np.ndarray,
    preprocessing: Preprocessing,
    initial: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """Returns first weights of the text tower by canonical name.

    Args:
        model: a `SigLIP` model whose image tower has its first weights.
        pixels: uint8 (pictures, height, width, 3), the training pictures.
        ids: int32 (captions, tokens), the captions of the pictures.
        picture: int (captions,), the picture of each caption.
        preprocessing: the model's preprocessing, which knows the ids of end mark and padding.
        initial: the initial values of all weights by canonical name.

    Returns:
        The token table, the position embedding, the head, and those kernels of the blocks that change. The result is
        empty if no caption has tokens, or if the text tower has no head or a bottlenecked token embedding.
    """
    if not len(ids) or "text/head/kernel" not in initial or "text/token_embedding/projection" in initial:
        return {}
    batches = (tf.constant(pixels[start : start + _BATCH]) for start in range(0, len(pixels), _BATCH))
    images = np.concatenate([model.encode_image(batch).numpy() for batch in batches]).astype(np.float64)
    marks = preprocessing.text.eos_id, preprocessing.text.pad_id
    vectors = token_vectors(ids, (images - images.mean(0))[picture], model.vocab_size, marks)
    return text_weights(vectors, initial) if vectors.any() else {}


def token_vectors(ids: np.ndarray, targets: np.ndarray, vocabulary: int, marks: tuple[int, ...]) -> np.ndarray:
    """Returns one vector per token. Their sums over texts are the ridge regression of the targets.

    Args:
        ids: int (texts, tokens), below `vocabulary`.
        targets: float64 (texts, d).
        vocabulary: the number of ids.
        marks: the ids of end mark and padding, which get no vector.

    Returns:
        float64 (vocabulary, d), with zeros for tokens that occur in no text.
    """
    used, pieces = np.unique(ids, return_inverse=True)
    pieces, count = pieces.reshape(ids.shape), len(used)
    told = ~np.isin(ids, marks)
    gram, sums = np.zeros(count * count), np.zeros((count, targets.shape[1]))
    for start in range(0, len(ids), _ROWS):
        part = slice(start, start + _ROWS)
        here, both = pieces[part], told[part, :, None] & told[part, None]
        gram += np.bincount((here[:, :, None] * count + here[:, None])[both], minlength=count * count)
        text, place = np.nonzero(told[part])
        np.add.at(sums, here[text, place], targets[part][text])
    vectors = np.zeros((vocabulary, targets.shape[1]))
    vectors[used] = np.linalg.solve(gram.reshape(count, count) + _RIDGE * np.eye(count), sums)
    return vectors


def text_weights(vectors: np.ndarray, initial: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the weights with which a text tower computes sums of token vectors, approximately.

    All positions share one large embedding u. The vectors are small compared to it, so the norm before the last block's
    attention is nearly linear in them. The values of the attention leave u out, and so does the head.

    Args:
        vectors: float64 (vocabulary, d).
        initial: the initial values of all weights by canonical name.

    Returns:
        float32 weights by canonical name.
    """
    table, positions = initial["text/token_embedding/embedding"], initial["text/position_embedding"]
    tokens, width = positions.shape[1:]
    # Directions of the embedding -> units of the tower. A tower that is narrower keeps the most important directions.
    directions = np.linalg.svd(vectors, full_matrices=False)[2][:width]
    spread = np.eye(len(directions), width)
    random = np.random.default_rng(len(table))
    common = random.standard_normal((width,))
    common -= common.mean()
    common *= np.sqrt(width) / np.linalg.norm(common)
    without = np.eye(width) - np.outer(common, common) / width
    lengths = np.linalg.norm(vectors[vectors.any(axis=1)], axis=1, keepdims=True)
    scale = _TOKEN * np.sqrt(width) / np.mean(lengths)
    # A sum of a few vectors is about as long as one vector, and the attention divides it by the number of positions.
    gain = np.sqrt(tokens * _TEXT / _TOKEN)
    last = max(int(match[1]) for match in map(re.compile(r"text/block_(\d+)/").match, initial) if match)
    weights = {name: _SMALL * array for name, array in initial.items() if _ENDS_A_BRANCH.fullmatch(name)}
    attention = f"text/block_{last}/attention"
    weights |= {
        "text/token_embedding/embedding": scale * vectors @ directions.T @ spread,
        "text/position_embedding": positions - positions.mean(axis=1, keepdims=True) + common,
        f"{attention}/query/kernel": 0 * initial[f"{attention}/query/kernel"],
        f"{attention}/value/kernel": gain * without,
        f"{attention}/out/kernel": gain * np.eye(width),
        "text/head/kernel": without @ spread.T @ directions,
    }
    return {name: array.reshape(initial[name].shape).astype(np.float32) for name, array in weights.items()}
