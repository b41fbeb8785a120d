"""Fused attention: its kernel by plain XLA ops against float64, and where it stands in a TPU's program."""

import functools
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from siglip_tf import primitives, tpu
from siglip_tf.primitives.fused_attention import attention_of_rows
from tests.tpu import programs


def attention(q, k, v, tokens, heads):
    """Float64 numpy, and the gradients for an upstream gradient."""
    split = (-1, tokens, heads, q.shape[1] // heads)
    q, k, v = (np.asarray(t, np.float64).reshape(split) for t in (q, k, v))
    scale = split[3] ** -0.5
    logits = np.einsum("bnhk,bmhk->bhnm", q, k) * scale
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    out = np.einsum("bhnm,bmhk->bnhk", weights, v)

    def gradient(upstream):
        up = np.asarray(upstream, np.float64).reshape(split)
        slopes = np.einsum("bnhk,bmhk->bhnm", up, v)
        slopes = weights * (slopes - (weights * slopes).sum(-1, keepdims=True)) * scale
        parts = (
            np.einsum("bhnm,bmhk->bnhk", slopes, k),
            np.einsum("bhnm,bnhk->bmhk", slopes, q),
            np.einsum("bhnm,bnhk->bmhk", weights, up),
        )
        return [part.reshape(-1, split[2] * split[3]) for part in parts]

    return out.reshape(-1, split[2] * split[3]), gradient


SHAPES = [
    (3, 7, 5, 8),
    (4, 20, 2, 64),
    *(
        pytest.param(*shape, marks=pytest.mark.slow)
        for shape in (
            (8, 20, 4, 64),
            (4, 196, 2, 64),
            (16, 16, 2, 64),
            (6, 64, 2, 64),
            (8, 49, 2, 64),
            (5, 33, 3, 24),
        )
    ),
]


@programs.needs_compiler
@pytest.mark.parametrize(("batch", "tokens", "heads", "size"), SHAPES)
def test_the_kernel_equals_float64(rng, batch, tokens, heads, size):
    import jax

    from siglip_tf.primitives import attention_kernel

    jax.config.update("jax_platforms", "cpu")
    shape = attention_kernel.Shape(batch * tokens, tokens, heads, size, "float32")
    # Large logits, so that a neighbor's rows, were they seen, would count.
    q, k, v, up = (3 * rng.standard_normal((batch * tokens, heads * size)).astype(np.float32) for _ in range(4))
    expected, gradient = attention(q, k, v, tokens, heads)
    attended = attention_kernel.attend(shape, q, k, v, interpret=True)
    # Logits of up to 40 are right to some 4e-6 in float32, and so are the weights.
    found = (attended, *attention_kernel.differentiate(shape, q, k, v, up, interpret=True))
    for got, right in zip(found, (expected, *gradient(up)), strict=True):
        np.testing.assert_allclose(got, right, atol=1e-5 * np.abs(right).max())


def test_off_tpu_it_is_einsum(rng):
    q, k, v, up = (rng.standard_normal((3 * 5, 2 * 4)).astype(np.float32) for _ in range(4))
    expected, gradient = attention(q, k, v, 5, 2)
    inputs = [tf.constant(t) for t in (q, k, v)]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        out = attention_of_rows(*inputs, tokens=5, num_heads=2, fused=True)
    np.testing.assert_allclose(out, expected, atol=1e-6)
    for got, right in zip(tape.gradient(out, inputs, up), gradient(up), strict=True):
        np.testing.assert_allclose(got, right, atol=1e-5)


def test_without_jax_a_tpu_step_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax", None)
    monkeypatch.delitem(sys.modules, "siglip_tf.primitives.attention_kernel", raising=False)
    monkeypatch.delattr(primitives, "attention_kernel", raising=False)
    rows = tf.zeros((6, 8))
    with tpu.made_up_tpu_strategy(1).scope(), pytest.raises(ImportError, match=r"jax .* 'siglip-tf\[tpu\]'"):
        attention_of_rows(rows, rows, rows, tokens=3, num_heads=2, fused=True)


@pytest.mark.slow
@programs.needs_compiler
def test_in_a_tpu_program_it_is_one_call_each_way_and_compiles():
    make = functools.partial(keras.optimizers.SGD, 0.1)
    keras.config.set_dtype_policy("mixed_bfloat16")
    options = {"attention": "fused", "image_size": 32, "image_depth": 1, "text_depth": 1}
    recipe = functools.partial(_subject, make, **options)
    program, _ = tpu.trace_recipe(recipe, 4, 32)
    assert program.ops()["XlaCustomCallV2"] == 4  # two towers, forward and backward
    compiled = tpu.compile_module(tpu.lower(program), tpu.Topology("v4:2x2x1"))
    assert len(compiled.kernels) == 4 and all(cycles > 0 for cycles in compiled.kernels.values())
    kernels = [op for op in tpu.analyse(compiled).ops if op.kind == "attention"]
    assert sum(op.count for op in kernels) >= 4 and all(op.seconds > 0 for op in kernels)
    with pytest.raises(ValueError, match="without TPU kernels"):
        tpu.CPUReplicas(program, tpu.lower(program))


def _subject(make, **options):
    subject = programs.subject(make, **options)
    size = options["image_size"]
    return tpu.Subject(subject.model, {**programs.BATCH, "image": tf.TensorSpec((size, size, 3))})
