"""cuDNN's attention as the custom calls that XLA for GPUs knows: jax' own description of the calls is the oracle."""

import json

import numpy as np
import pytest
import tensorflow as tf

from siglip_tf.primitives import attention_cudnn
from siglip_tf.primitives.compilation import compiling_for
from siglip_tf.primitives.fused_attention import attention_of_rows

BATCH, TOKENS, HEADS, SIZE = 2, 6, 3, 8


def agrees(ours, theirs):
    """Whether everything that ours says stands in theirs too."""
    if isinstance(ours, dict):
        return all(key in theirs and agrees(value, theirs[key]) for key, value in ours.items())
    return ours == pytest.approx(theirs) if isinstance(ours, float) else ours == theirs


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_calls_are_described_as_jax_describes_them(dtype):
    cudnn = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
    mlir = pytest.importorskip("jax._src.interpreters.mlir")
    for target, backward in ((attention_cudnn.FORWARD, False), (attention_cudnn.BACKWARD, True)):
        ours = attention_cudnn._config(
            (BATCH, TOKENS, HEADS, SIZE), tf.as_dtype(dtype), attention_cudnn._PRODUCTS[target]
        )
        options = (42, 0.0, cudnn.MaskType.NO_MASK, cudnn.AttentionLayout.BTNH.value, 0, 1, False, backward)
        with mlir.make_ir_context():
            element = mlir.dtype_to_ir_type(np.dtype(tf.as_dtype(dtype).as_numpy_dtype))
            theirs = cudnn.create_dot_product_attention_backend_config(
                BATCH, HEADS, TOKENS, TOKENS, element, SIZE**-0.5, *options
            )
        ours, theirs = json.loads(ours), json.loads(theirs)
        assert agrees(ours, theirs), target
        products = [key for key in theirs["cudnn_fmha_backend_config"] if "dimension_numbers" in key]
        assert set(products) <= set(ours["cudnn_fmha_backend_config"])
        assert target == cudnn.get_custom_call_name(False, False, backward)


def stand_in(calls):
    """The two custom calls in float32 by their definition, for a processor that has no cuDNN."""

    def call(arguments, target, config, like):
        calls.append(target)
        q, k, v = (tf.cast(t, tf.float32) for t in arguments[:3])
        logits = tf.einsum("bnhk,bmhk->bhnm", q, k) * json.loads(config)["cudnn_fmha_backend_config"]["fmha_scale"]
        if target == attention_cudnn.FORWARD:
            y = tf.einsum("bhnm,bmhk->bhnk", tf.nn.softmax(logits), v)
            results = [y, tf.reduce_logsumexp(logits, -1), tf.zeros((0,))]
        else:
            log_sums, upstream, y = (tf.cast(t, tf.float32) for t in arguments[3:])
            weights = tf.exp(logits - log_sums[..., None])
            inner = tf.reduce_sum(upstream * y, -1)
            slopes = weights * (tf.einsum("bnhk,bmhk->bhnm", upstream, v) - tf.transpose(inner, (0, 2, 1))[..., None])
            slopes *= SIZE**-0.5
            dq, dk = tf.einsum("bhnm,bmhk->bhnk", slopes, k), tf.einsum("bhnm,bnhk->bhmk", slopes, q)
            results = [dq, dk, tf.einsum("bhnm,bnhk->bhmk", weights, upstream), tf.zeros((0,))]
        assert [tuple(t.shape) for t in results] == [tuple(t.shape) for t in like]
        return [tf.cast(t, spec.dtype) for t, spec in zip(results, like, strict=True)]

    return call


def test_a_step_for_a_gpu_calls_it_and_nothing_else_does(monkeypatch, rng):
    calls = []
    monkeypatch.setattr(attention_cudnn, "xla_custom_call", stand_in(calls))
    rows = [tf.constant(rng.standard_normal((BATCH * TOKENS, HEADS * SIZE)), tf.float32) for _ in range(4)]
    rows = [tf.cast(t, tf.float16) for t in rows]

    def run(device, fused, arguments=rows):
        calls.clear()
        *inputs, upstream = arguments
        with compiling_for(device), tf.GradientTape() as tape:
            tape.watch(inputs)
            y = attention_of_rows(*inputs, TOKENS, HEADS, fused)
        return [y, *tape.gradient(y, inputs, upstream)]

    expected = run("GPU", False)
    assert not calls
    for device in (None, "CPU", "TPU"):
        run(device, True)
        assert not calls
    got = run("GPU", True)
    assert calls == [attention_cudnn.FORWARD, attention_cudnn.BACKWARD]
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == tf.float16
        np.testing.assert_allclose(a, b, rtol=2e-2, atol=4e-3)
    run("GPU", True, [tf.cast(t, tf.float32) for t in rows])  # cuDNN has no float32 kernel
    assert not calls


def test_heads_and_cards_that_cudnn_has(monkeypatch):
    assert attention_cudnn.supports(tf.bfloat16, 64) and attention_cudnn.supports(tf.float16, 72)  # B, So400m
    assert not attention_cudnn.supports(tf.float32, 64)
    assert not attention_cudnn.supports(tf.bfloat16, 12) and not attention_cudnn.supports(tf.bfloat16, 136)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [kind])
    for capability, has_it in (((7, 5), False), ((8, 0), True), ((9, 0), True)):
        details = {"compute_capability": capability}
        monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda gpu, details=details: details)
        assert attention_cudnn.supports(tf.float16, 64) is has_it


def test_an_unknown_device_is_refused():
    with pytest.raises(ValueError, match="one of CPU, GPU, TPU. Received: 'gpu'"), compiling_for("gpu"):
        pass
