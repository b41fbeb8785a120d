"""A tiny SigLIP and batches for it."""

import numpy as np
import tensorflow as tf

import siglip_tf

SIZES = {"image_size": 16, "text_length": 5, "vocab_size": 40}


def model(**options) -> siglip_tf.SigLIP:
    return siglip_tf.SigLIP(**{"image": "mu/8", "text": "mu", **SIZES, **options})


def batch(n=16, seed=0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    images = rng.uniform(-1, 1, (n, 16, 16, 3)).astype(np.float32)
    return {"image": images, "text": rng.integers(0, 40, (n, 5)).astype(np.int32)}


def dataset(global_batch=16, steps=6) -> tf.data.Dataset:
    examples = batch(global_batch * steps)
    return tf.data.Dataset.from_tensor_slices(examples).batch(global_batch, drop_remainder=True)
