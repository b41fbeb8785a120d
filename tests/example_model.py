"""A tiny model with preprocessing of its own, random weights, and pictures to show it."""

import functools

import numpy as np
import tensorflow as tf

import siglip_tf
from siglip_tf.data import ImagePreprocessing, Preprocessing, Tokenizer
from tests.vocabulary import trained

_CORPUS = (
    "a photo of a red circle",
    "a photo of the large blue square on the left",
    "two green triangles, a drawing",
    "ein großes rotes quadrat links",
    "круг слева",
    "مربع أزرق",
    "写真 赤い 円",
)


@functools.cache
def vocabulary() -> bytes:
    """A SentencePiece model of this file's words."""
    return trained(_CORPUS, 120)


def example_model(method: str = "big_vision", **arguments) -> siglip_tf.SigLIP:
    """mu towers, 32 pixels, 8 tokens, always the same weights, whose embeddings differ between inputs."""
    tokenizer = Tokenizer(vocabulary(), 8)
    arguments = {"image": "mu/16", "text": "mu", "image_size": 32, "text_length": 8} | arguments
    model = siglip_tf.SigLIP(vocab_size=tokenizer.vocab_size, **arguments)
    rng = np.random.default_rng(7)
    for name, variable in model.named_weights().items():
        noise = rng.normal(size=variable.shape).astype(np.float32)
        if variable.ndim >= 1:
            variable.assign(1 + 0.2 * noise if name.endswith("scale") else 0.2 * noise)
        elif name == "bias":
            variable.assign(-3.0)
    model.preprocessing = Preprocessing(ImagePreprocessing(32, method), tokenizer)
    return model


def pictures(count: int, seed: int = 0, size: tuple[int, int] = (40, 48)) -> list[bytes]:
    """Smooth random colour fields as JPEG and PNG bytes by turns."""
    rng = np.random.default_rng(seed)
    encode = (tf.io.encode_jpeg, tf.io.encode_png)
    fields = tf.image.resize(rng.uniform(0, 255, (count, 4, 5, 3)), size, "bicubic")
    fields = tf.cast(tf.clip_by_value(fields, 0, 255), tf.uint8)
    return [encode[i % 2](field).numpy() for i, field in enumerate(fields)]
