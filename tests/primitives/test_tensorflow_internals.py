"""Private hooks of TensorFlow and Keras do what the project needs of them; one that changes is named here."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from siglip_tf.primitives import tensorflow_internals as internals
from tests.models import small


def test_gradients_already_summed_holds_inside_alone():
    optimizer = keras.optimizers.SGD(0.1)
    original = optimizer._all_reduce_sum_gradients
    with pytest.raises(KeyError), internals.gradients_already_summed(optimizer):
        assert optimizer._all_reduce_sum_gradients([1]) == [1]
        raise KeyError
    assert optimizer._all_reduce_sum_gradients == original


def test_what_an_optimizer_was_made_for_and_under():
    optimizer, variables = keras.optimizers.Adam(), [keras.Variable([1.0]), keras.Variable([2.0, 3.0])]
    optimizer.build(variables)
    assert list(map(id, internals.variables_of_optimizer(optimizer))) == list(map(id, variables))
    assert internals.strategy_of_optimizer(optimizer) is tf.distribute.get_strategy()


def test_a_built_layer_takes_more_weights_inside_alone():
    layer = keras.layers.Dense(2)
    layer.build((None, 3))
    with internals.weights_may_be_added(layer):
        layer.more = layer.add_weight((1,))
    assert len(layer.weights) == 3
    with pytest.raises(ValueError, match="already built"):
        layer.other = layer.add_weight((1,))


def test_all_layers_holds_an_outer_layer_before_those_inside_it():
    model = small.model()
    paths = [layer.path for layer in internals.all_layers(model)]
    assert len(paths) == len(set(paths))
    order = ["image", "image/block_0", "image/block_0/attention", "image/block_0/attention/query"]
    assert sorted(order, key=paths.index) == order and "text/head" in paths


def test_the_barrier_keeps_values_and_is_in_the_program():
    double = tf.function(lambda x: internals.optimization_barrier([x + 1.0])[0] * 2.0, jit_compile=True)
    x = tf.constant([1.0, 2.0])
    np.testing.assert_array_equal(double(x), [4.0, 6.0])
    assert "opt-barrier" in double.experimental_get_compiler_ir(x)(stage="hlo")
