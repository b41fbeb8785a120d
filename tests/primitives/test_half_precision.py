"""Zeros, tiny and large numbers through every layer in half precision: finite, and near float64 numpy."""

import keras
import numpy as np
import tensorflow as tf

from siglip_tf.models.image_tower import PatchEmbedding
from siglip_tf.models.naflex import masked_attention
from siglip_tf.models.pooling import AttentionPooling
from siglip_tf.models.transformer import MLP, Block
from siglip_tf.models.variants import TowerSize
from siglip_tf.primitives.activations import gelu_tanh
from siglip_tf.primitives.attention import MultiHeadAttention
from siglip_tf.primitives.normalization import LayerNorm, l2_normalize
from siglip_tf.primitives.projection import Projection

TOKENS, WIDTH, HEADS = 3, 8, 2
SIZE = TowerSize(WIDTH, 1, 12, HEADS)


def projection(x, w):
    return x @ w["kernel"] + w["bias"]


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def norm(x, w, name=""):
    centered = x - x.mean(-1, keepdims=True)
    scaled = centered / np.sqrt(np.square(centered).mean(-1, keepdims=True) + 1e-6)
    return scaled * w[f"{name}scale"] + w[f"{name}bias"]


def mlp(x, w, name=""):
    hidden = gelu(x @ w[f"{name}fc1/kernel"] + w[f"{name}fc1/bias"])
    return hidden @ w[f"{name}fc2/kernel"] + w[f"{name}fc2/bias"]


def attend(queries, tokens, w, name="", mask=1.0):
    """queries (b, n, d), tokens (b, m, d) -> (b, n, d)."""
    q, k, v = (
        np.einsum("bnd,dhk->bhnk", x, w[f"{name}{part}/kernel"]) + w[f"{name}{part}/bias"][:, None]
        for part, x in (("query", queries), ("key", tokens), ("value", tokens))
    )
    logits = np.einsum("bhnk,bhmk->bhnm", q, k) * q.shape[-1] ** -0.5
    weights = np.exp(logits - logits.max(-1, keepdims=True)) * mask
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("bhnm,bhmk,hkd->bnd", weights, v, w[f"{name}out/kernel"]) + w[f"{name}out/bias"]


def attention_of_rows(rows, w, name=""):
    tokens = rows.reshape(-1, TOKENS, WIDTH)
    return attend(tokens, tokens, w, name).reshape(rows.shape)


def block(rows, w):
    rows = rows + attention_of_rows(norm(rows, w, "attention_norm/"), w, "attention/")
    return rows + mlp(norm(rows, w, "mlp_norm/"), w, "mlp/")


def pooling(tokens, w):
    probe = np.repeat(w["probe"], len(tokens), 0)
    x = attend(probe, tokens, w, "attention/")
    return (x + mlp(norm(x, w, "mlp_norm/"), w, "mlp/"))[:, 0]


def patches(images, w):
    n, height, width, _ = images.shape
    cut = images.reshape(n, height // 4, 4, width // 4, 4, 3)
    rows = np.einsum("bipjqc,pqcd->bijd", cut, w["kernel"]) + w["bias"]
    return rows.reshape(n, -1, rows.shape[-1])


def built(layer, shape=(None, TOKENS, WIDTH)):
    layer.build(shape)
    rng = np.random.default_rng(0)
    for weight in layer.weights:  # numbers that bfloat16 holds exactly
        weight.assign(np.round(rng.uniform(-0.5, 0.5, weight.shape) * 64) / 64)
    return layer


def weights_of(layer):
    """Float64 weights by their paths below the layer."""
    return {weight.path.split("/", 1)[1]: weight.numpy().astype(np.float64) for weight in layer.weights}


def layers(policy):
    """Each kind of layer, its oracle in float64 and the shape of its input."""
    rows = (2 * TOKENS, WIDTH)
    yield "norm", built(LayerNorm(dtype=policy)), norm, rows
    yield "projection", built(Projection((WIDTH,), (4,), dtype=policy), None), projection, rows
    yield "mlp", built(MLP(12, dtype=policy)), mlp, rows
    yield "attention", built(MultiHeadAttention(HEADS, dtype=policy)), attention_of_rows, rows
    yield "block", built(Block(SIZE, dtype=policy)), block, rows
    yield "pooling", built(AttentionPooling(SIZE, dtype=policy)), pooling, (2, TOKENS, WIDTH)
    yield "patches", built(PatchEmbedding(WIDTH, 4, strides=4, dtype=policy), (None, 8, 4, 3)), patches, (2, 8, 4, 3)


def inputs(shape, dtype):
    """Numbers that `dtype` holds: none, the smallest, those whose squares vanish, ordinary ones."""
    random = np.random.default_rng(1).normal(size=shape)
    for size in (0.0, 6e-8, 1e-5, 1.0):
        yield size, tf.cast(size * random, dtype)


def test_every_layer_is_near_float64():
    for dtype, error in (("float16", 4e-3), ("bfloat16", 4e-2)):
        for name, layer, oracle, shape in layers(f"mixed_{dtype}"):
            for size, x in inputs(shape, dtype):
                with tf.GradientTape() as tape:
                    tape.watch(x)
                    y = layer(x)
                assert y.dtype == dtype, name
                expected = oracle(x.numpy().astype(np.float64), weights_of(layer))
                scale = max(1.0, np.abs(expected).max())
                what = f"{name} in {dtype} at {size}"
                np.testing.assert_allclose(y.numpy().astype(np.float64), expected, atol=error * scale, err_msg=what)
                found = tape.gradient(y, [x, *layer.trainable_weights], unconnected_gradients="zero")
                assert all(np.isfinite(tf.cast(g, tf.float32)).all() for g in found), what


def test_an_embedding_of_zeros_stays_one_and_has_a_gradient():
    for dtype in ("float16", "bfloat16", "float32"):
        for _, x in inputs((4, WIDTH), dtype):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = l2_normalize(x)
            wide = x.numpy().astype(np.float64)
            expected = wide / (np.linalg.norm(wide, axis=1, keepdims=True) + 1e-8)
            assert y.dtype == tf.float32
            np.testing.assert_allclose(y, expected, atol=1e-6)
            assert not np.isnan(tf.cast(tape.gradient(y, x), tf.float32)).any()
    x = tf.constant(np.random.default_rng(2).normal(size=(50, 64)), tf.float32)
    np.testing.assert_array_equal(l2_normalize(x), x / (tf.norm(x, axis=-1, keepdims=True) + 1e-8))


def test_the_slope_of_a_gelu_is_finite_where_squares_are_not():
    for dtype, error in (("float16", 2e-3), ("bfloat16", 2e-2), ("float32", 1e-5), ("float64", 1e-8)):
        largest = min(float(tf.as_dtype(dtype).max) / 4, 1e30)
        numbers = [0.0, 1e-7, 1.0, -1.0, 3.0, -3.0, 15.0, -15.0, 300.0, -300.0, 1e4, -1e4, largest, -largest]
        x = tf.constant(numbers, dtype)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = gelu_tanh(x)
        wide = x.numpy().astype(np.float64)
        near = np.clip(wide, -20, 20)
        slope = (gelu(near + 1e-6) - gelu(near - 1e-6)) / 2e-6
        expected = np.where(np.abs(wide) < 20, gelu(near), np.maximum(wide, 0))
        np.testing.assert_allclose(y.numpy().astype(np.float64), expected, rtol=error, atol=error)
        np.testing.assert_allclose(tape.gradient(y, x).numpy().astype(np.float64), slope, atol=error)


def test_padding_has_no_weight_in_half_precision():
    for dtype, error in (("float16", 4e-3), ("bfloat16", 4e-2)):
        layer = built(MultiHeadAttention(HEADS, dtype=f"mixed_{dtype}"))
        mask = np.array([[True, True, False], [True, False, False]])
        for _, x in inputs((2, TOKENS, WIDTH), dtype):
            wide = x.numpy().astype(np.float64)
            got = masked_attention(layer, x, x, tf.constant(mask))
            expected = attend(wide, wide, weights_of(layer), mask=mask[:, None, None])
            np.testing.assert_allclose(got.numpy().astype(np.float64), expected, atol=error)


def test_zero_rows_of_a_policy_that_stores_halves():
    layer = built(LayerNorm(dtype=keras.DTypePolicy("float16")))
    got = layer(tf.zeros((2, WIDTH), tf.float16))
    np.testing.assert_allclose(got.numpy().astype(np.float64), np.tile(weights_of(layer)["bias"], (2, 1)), atol=1e-3)
