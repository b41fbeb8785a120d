"""GELU as one kernel: the formula's numbers, forward and backward, and only where it pays."""

import numpy as np
import pytest
import tensorflow as tf

from siglip_tf.primitives import one_kernel as module
from siglip_tf.primitives.activations import gelu_tanh
from siglip_tf.primitives.compilation import compiling_for


def value_and_gradient(x, upstream):
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = gelu_tanh(x)
    return y, tape.gradient(y, x, output_gradients=upstream)


def expected(x, upstream):
    """In float64 as the paper of GELU writes it; the gradient by central differences."""

    def gelu(x):
        return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))

    x = x.astype(np.float64)
    return gelu(x), upstream * (gelu(x + 1e-6) - gelu(x - 1e-6)) / 2e-6


def compiled_parts(function, *arguments):
    graph = function.get_concrete_function(*arguments).graph
    attributes = [f.cached_definition.attr for f in graph._functions.values()]
    return sum("_XlaMustCompile" in a and a["_XlaMustCompile"].b for a in attributes)


@pytest.fixture
def always(monkeypatch):
    monkeypatch.setattr(module, "_SMALLEST", 1)


@pytest.mark.usefixtures("always")
def test_equals_the_formula_in_float64(rng):
    x, upstream = (rng.normal(size=(37, 5)).astype(np.float32) * scale for scale in (3, 1))
    step = tf.function(value_and_gradient, autograph=False)
    assert compiled_parts(step, tf.constant(x), tf.constant(upstream)) == 2
    for found, wanted in zip(step(tf.constant(x), tf.constant(upstream)), expected(x, upstream), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=2e-6, atol=2e-6)


@pytest.mark.usefixtures("always")
def test_not_where_something_else_compiles_or_places_the_step():
    x = tf.ones((3, 4))

    def step(x, upstream):
        with compiling_for("CPU"):
            return value_and_gradient(x, upstream)

    assert compiled_parts(tf.function(step, autograph=False), x, x) == 0
    with tf.distribute.OneDeviceStrategy("CPU:0").scope():
        assert compiled_parts(tf.function(value_and_gradient, autograph=False), x, x) == 0


def test_not_for_small_tensors():
    x = tf.ones((3, 4))
    assert compiled_parts(tf.function(value_and_gradient, autograph=False), x, x) == 0
