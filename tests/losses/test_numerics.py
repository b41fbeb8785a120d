"""The precision of the loss' matrix products, said and kept; eager calls keep their trace."""

import numpy as np
import tensorflow as tf

from siglip_tf import losses
from siglip_tf.distribution import current_ring
from siglip_tf.losses import interface, numerics
from siglip_tf.losses.all_pairs import automatic_tile_size
from siglip_tf.primitives.compilation import compiling_for
from tests.losses import dense

T, B = np.float32(np.log(10)), np.float32(-10)


def lowered(precision):
    """The StableHLO of one product as a compiled step traces it."""

    def product(a, b):
        with compiling_for("CPU"):
            return numerics.matmul(a, b, precision, transpose_b=True)

    spec = tf.TensorSpec((4, 8))
    function = tf.function(product, autograph=False).get_concrete_function(spec, spec)
    text = tf.mlir.experimental.convert_function(function, pass_pipeline="")
    return tf.mlir.experimental.run_pass_pipeline(text, "tf-lower-to-mlprogram-and-hlo")


def test_a_compiled_product_has_the_precision_that_is_asked_for():
    assert "precision = [DEFAULT, DEFAULT]" in lowered("float32")
    bfloat16 = lowered("bfloat16")
    assert "xbf16>, tensor<" in bfloat16 and "-> tensor<4x4xf32>" in bfloat16
    assert tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        assert "precision = [HIGHEST, HIGHEST]" in lowered("float32")
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(True)


def test_bfloat16_products_have_rounded_inputs_and_float32_sums(rng):
    a, b = rng.standard_normal((2, 6, 50)).astype(np.float32)
    rounded = [np.asarray(tf.cast(tf.cast(v, tf.bfloat16), tf.float64)) for v in (a, b)]
    found = numerics.matmul(tf.constant(a), tf.constant(b), "bfloat16", transpose_b=True)
    assert dense.relative_error(found, rounded[0] @ rounded[1].T) < 1e-6
    x, y = dense.pairs(rng, 30)
    inputs = [tf.constant(v) for v in (x, y, T, B)]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        loss = losses.sigmoid_loss(*inputs, precision="bfloat16", tile_size=8)
    for got, right in zip([loss, *tape.gradient(loss, inputs)], dense.sigmoid(x, y, T, B), strict=True):
        assert dense.relative_error(got, right) < 1e-2


def test_eager_calls_trace_once_for_each_shape_and_keep_a_bounded_number(rng):
    x, y = dense.pairs(rng, 13)
    interface._trace.cache_clear()
    for n in (13, 12, 13, 12, 13):
        with tf.GradientTape() as tape:
            tape.watch(x := tf.constant(x))
            losses.sigmoid_loss(x[:n], y[:n], T, B)
        losses.softmax_loss(x[:n], y[:n], T)
    counts = interface._trace.cache_info()
    assert (counts.misses, counts.hits) == (4, 6)
    assert counts.maxsize == 32


def test_a_gpus_tiles_are_one_pass_and_the_same_loss(rng):
    images, texts = dense.pairs(rng, 37)
    expected, *gradients = dense.sigmoid(images, texts, T, B)

    def step(device):
        @tf.function(jit_compile=True, autograph=False)
        def run(x, y):
            with compiling_for(device):
                result = losses.sigmoid_loss_and_gradients(current_ring(), x, y, tf.constant(T), tf.constant(B), 16)
            return result.loss, *result.gradients()

        return run

    inputs = tf.constant(images, tf.float32), tf.constant(texts, tf.float32)

    def barriers(device):
        graph = step(device).get_concrete_function(*inputs).graph
        functions = [graph, *(graph._get_function(name).graph for name in graph._functions)]
        return sum(op.type == "XlaOptimizationBarrier" for g in functions for op in g.get_operations())

    assert barriers("GPU") > 0
    assert barriers("TPU") == barriers("CPU") == 0
    loss, *found = step("GPU")(*inputs)
    assert dense.relative_error(loss, expected) < 1e-6
    for got, wanted in zip(found, gradients, strict=True):
        assert dense.relative_error(got, wanted) < 1e-6


def test_tiles_suit_the_device():
    assert automatic_tile_size(65_536) == 2048
    with compiling_for("TPU"):
        assert automatic_tile_size(65_536) == 1024
    with compiling_for("GPU"):
        assert automatic_tile_size(65_536) == 8192 and automatic_tile_size(9000) == 4500
