"""Microbatches, rematerialized blocks and dropout change memory, not the gradient."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.models import small

WITH_DROPOUT = {"dropout": 0.2, "stochastic_depth": 0.2, "text_depth": 3}


def trained(**options):
    return _trained(tuple(options.items()))


@functools.cache
def _trained(options, steps=2):
    options = dict(options)
    keras.utils.set_random_seed(3)
    model = small.model(**options)
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9, global_clipnorm=1.0), run_eagerly=not options)
    model.fit(small.dataset(steps=steps), verbose=0)
    return [w.numpy() for w in model.trainable_variables]


OPTIONS = [{"microbatch_size": 8, "remat": "block"}, {"microbatch_size": 4}, {"remat": "block"}]


@pytest.mark.parametrize(
    ("common", "options"),
    [({}, OPTIONS[0])]
    + [pytest.param(c, o, marks=pytest.mark.slow) for c in ({}, WITH_DROPOUT) for o in OPTIONS if c or o != OPTIONS[0]],
    ids=str,
)
def test_training_ends_in_the_same_weights(common, options):
    for a, b in zip(trained(**common), trained(**common, **options), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_dropout_draws_anew_each_step_and_depends_on_the_seed():
    plain, dropped, other = trained(), trained(dropout=0.3), trained(dropout=0.3, seed=1)
    assert max(np.abs(a - b).max() for a, b in zip(plain, dropped, strict=True)) > 1e-5
    assert max(np.abs(a - b).max() for a, b in zip(other, dropped, strict=True)) > 1e-5


def test_a_microbatch_that_does_not_divide_the_batch_is_named():
    model = small.model(microbatch_size=5)
    model.compile("adamw")
    with pytest.raises(ValueError, match="divides the batch of a replica, 16. Received: 5"):
        model.fit(small.dataset(), verbose=0)


@pytest.mark.slow
def test_loops_stay_loops_in_the_graph():
    sizes = []
    for n in (16, 64):
        model = small.model(microbatch_size=4)
        model.compile("sgd")
        specs = {k: tf.TensorSpec((n, *v.shape[1:]), v.dtype) for k, v in small.batch().items()}
        graph = tf.function(model.train_step, autograph=False).get_concrete_function(specs).graph
        sizes.append(len(graph.as_graph_def().node))
    assert sizes[0] == sizes[1]
