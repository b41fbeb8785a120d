"""The pretrained image tower: a small ViT that was taught with labels, as the public towers of the paper were.

From the pooled embedding it predicts what the subject is, and what stands at each place. Its labels are not captions:
a text tower that learns to read for it starts from nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from . import store
from .cell import Cell

_LOGIT_SCALE = 8.0  # embeddings have length 1
_STEPS_A_CALL = 64
_EMBEDDED_AT_A_TIME = 500
_NOISE_PICTURES = 4_096


def needs(settings: Mapping[str, Any]) -> list[Cell]:
    """All pictures."""
    return [cell for part in store.PARTS for cell in store.shards(settings["data"], part)]


def cost(settings: Mapping[str, Any]) -> float:
    """Returns the estimated seconds on one core."""
    return 40 + settings["examples"] * 200e-6


def compute(settings: Mapping[str, Any], folder: Path, root: Path) -> dict[str, Any]:
    """Trains the tower; writes `tower.npz`, its weights by canonical name, and `embeddings.npz`.

    Args:
        settings: "data" (see `store`), "model" (arguments of `SigLIP`), "batch", "examples", "learning_rate", "seed";
            "jit": whether XLA compiles the steps, which it does.
        folder: of the cell.
        root: of all cells.

    Returns:
        "subject": how often the subject is recognised by the labels' classifier on the pictures of the result.
    """
    import keras
    import tensorflow as tf

    import siglip_tf
    from siglip_tf.checkpoints.files import write_npz
    from siglip_tf.optimizers import AdamW, Cosine

    keras.utils.set_random_seed(settings["seed"])
    model = siglip_tf.SigLIP(**settings["model"], text_length=4, vocab_size=8)
    steps = settings["examples"] // settings["batch"]
    heads = keras.layers.Dense(sum(_SIZES), name="labels")
    heads.build((None, model.embed_dim))
    variables = [*model.image.trainable_variables, *heads.trainable_variables]
    optimizer = AdamW(settings["learning_rate"], Cosine(steps, steps // 20), weight_decay=1e-4)
    optimizer.build(variables)

    def step(pixels, labels):
        with tf.GradientTape() as tape:
            logits = heads(model.encode_image(normalised(pixels), training=True) * _LOGIT_SCALE)
            parts = tf.split(logits, _SIZES, axis=1)
            loss = tf.add_n(
                [
                    tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels[:, i], logits=part))
                    for i, part in enumerate(parts)
                ]
            )
        optimizer.apply(tape.gradient(loss, variables), variables)
        return loss

    @tf.function(autograph=False, jit_compile=settings.get("jit", True))
    def many(pixels, labels):
        count = pixels.shape[0]

        def body(i, _):
            return i + 1, step(pixels[i], labels[i])

        return tf.while_loop(lambda i, _: i < count, body, (tf.constant(0), tf.constant(0.0)))[1]

    pixels, labels = store.load_images(settings["data"], "train", root), _labels(settings["data"], "train", root)
    generator = np.random.default_rng(settings["seed"])
    whole = -(-steps * settings["batch"] // len(pixels))
    order = np.concatenate([generator.permutation(len(pixels)) for _ in range(whole)])
    rounds = max(1, steps // _STEPS_A_CALL)
    count = min(steps, _STEPS_A_CALL)
    rows = order[: rounds * count * settings["batch"]].reshape(rounds, count, settings["batch"])
    losses = [float(many(tf.constant(pixels[row]), tf.constant(labels[row]))) for row in rows]

    weights = {name: v.numpy() for name, v in model.named_weights().items() if name.startswith("image/")}
    write_npz(folder / "tower.npz", weights)
    embeddings = {part: _embed(model, store.load_images(settings["data"], part, root)) for part in store.PARTS}
    side = settings["data"]["image_size"]
    noise = generator.integers(0, 256, (min(_NOISE_PICTURES, len(pixels)), side, side, 3), np.uint8)
    write_npz(folder / "embeddings.npz", {**embeddings, "noise": _embed(model, noise)})
    said = np.split(heads(embeddings["result"] * _LOGIT_SCALE).numpy(), np.cumsum(_SIZES)[:-1], axis=1)[:4]
    right = [
        part.argmax(1) == known for part, known in zip(said, _labels(settings["data"], "result", root).T, strict=False)
    ]
    return {"loss": losses[-1], "subject": float(np.mean(np.all(right, 0)))}


# Of the subject: count, texture, colour, shape. Of each of nine places: shape, colour, texture, or nothing.
_SIZES = (3, 4, 10, 10, *((11, 11, 5) * 9))


def _labels(data, part, root) -> np.ndarray:
    """int32 (n, labels), in the order of `_SIZES`."""
    label = store.load_labels(data, part, root)
    subject = np.stack([label // 400, label // 100 % 4, label // 10 % 10, label % 10], 1)
    layout = store.load_layouts(data, part, root)
    return np.concatenate([subject, layout.reshape(len(layout), -1)], 1).astype(np.int32)


def _embed(model, pixels) -> np.ndarray:
    parts = range(0, len(pixels), _EMBEDDED_AT_A_TIME)
    return np.concatenate([model.encode_image(normalised(pixels[i : i + _EMBEDDED_AT_A_TIME])).numpy() for i in parts])


def normalised(pixels):
    """uint8 to float32 in [-1, 1]."""
    import tensorflow as tf

    return tf.cast(pixels, tf.float32) / 127.5 - 1.0


def summary(result: Mapping[str, Any]) -> str:
    """Returns one figure for the progress line."""
    return f"subject recognised {result['subject']:.1%}"
