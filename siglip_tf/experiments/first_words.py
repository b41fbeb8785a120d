"""First weights of a text tower from the captions and the pictures: what each token says of a picture.

A text tower that begins at random needs hundreds of passes over a few thousand pairs before it knows their words. Where
the image tower's first weights tell the pictures apart already, the image embeddings of a caption are a sum over its
tokens, as nearly as one vector for each token can make it. This is a linear regression, solved in seconds. The tower
begins as this sum: its table holds the vectors, its last block attends to all positions alike, and all that it has
besides begins as a small change. Order and meaning of words together are then learned by training.

Source: Hoerl and Kennard, "Ridge Regression", 1970; "LiT", https://arxiv.org/abs/2111.07991 (a text tower that learns
to match an image tower's embeddings).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from siglip_tf.data import Preprocessing

_BATCH, _ROWS = 250, 4_096
# Added to the number of times that each token occurs: rare tokens take less of their pictures' noise.
_RIDGE = 0.1
# Lengths beside that of the position embedding: of a token's vector, and of a text's sum of them in the last block.
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
    """First weights of the text tower by their canonical names.

    Args:
        model: `SigLIP` whose image tower has its first weights already.
        pixels: uint8 (pictures, height, width, 3), training pictures.
        ids: int32 (captions, tokens).
        picture: int (captions,), the picture of each caption.
        preprocessing: of the model; it knows which tokens are marks.
        initial: the initial values of all weights.

    Returns:
        The table of tokens, the position embedding, the head, and the kernels of the blocks' attention and MLP that
        have to change. Empty where there are no captions.
    """
    if not len(ids) or "text/head/kernel" not in initial:
        return {}
    batches = (tf.constant(pixels[start : start + _BATCH]) for start in range(0, len(pixels), _BATCH))
    images = np.concatenate([model.encode_image(batch).numpy() for batch in batches]).astype(np.float64)
    marks = preprocessing.text.eos_id, preprocessing.text.pad_id
    vectors = token_vectors(ids, (images - images.mean(0))[picture], model.vocab_size, marks)
    return text_weights(vectors, initial)


def token_vectors(ids: np.ndarray, targets: np.ndarray, vocabulary: int, marks: tuple[int, ...]) -> np.ndarray:
    """One vector for each token, whose sums over texts come nearest to the targets (ridge regression).

    Args:
        ids: (texts, tokens), ids below `vocabulary`.
        targets: float64 (texts, d).
        vocabulary: number of ids.
        marks: ids that say nothing, of the end and of padding.

    Returns:
        float64 (vocabulary, d); zeros for tokens that no text has.
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
    """The weights by which a text tower sums vectors of tokens, as nearly as its norms let it.

    All positions have one large embedding u in common. Beside it the vectors are small, so that the norm before the
    last block's attention leaves their sum a sum. The attention takes u out, and so does the head.

    Args:
        vectors: (vocabulary, d).
        initial: the initial values of all weights.
    """
    table, positions = initial["text/token_embedding/embedding"], initial["text/position_embedding"]
    tokens, width = positions.shape[1:]
    # Directions of the embedding -> units of the tower; the most important ones where the tower is narrower.
    directions = np.linalg.svd(vectors, full_matrices=False)[2][:width]
    spread = np.eye(len(directions), width)
    random = np.random.default_rng(len(table))
    common = random.standard_normal(width)
    common -= common.mean()
    common *= np.sqrt(width) / np.linalg.norm(common)
    without = np.eye(width) - np.outer(common, common) / width
    length = np.linalg.norm(vectors, axis=1)
    scale = _TOKEN * np.sqrt(width) / max(length[length > 0].mean(), 1e-9)
    # A sum of a few vectors is about as long as one of them, and attention divides it by the number of positions.
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
