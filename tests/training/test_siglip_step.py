"""What the training step makes of this project's optimizers: norms of the update, and towers that are frozen."""

import numpy as np
import pytest
import tensorflow as tf

from siglip_tf.optimizers import AdamW, Lion, ParameterGroup, ScalingViTAdafactor
from tests.models import small


@pytest.mark.parametrize(
    "make", [AdamW, *(pytest.param(m, marks=pytest.mark.slow) for m in (Lion, ScalingViTAdafactor))]
)
def test_the_update_norm_is_that_of_the_weights(make):
    model = small.model(tower_norms=True)
    model.compile(make(learning_rate=1e-2), run_eagerly=True)
    before = {v.path: v.numpy() for v in model.trainable_variables}
    logs = model.train_on_batch(small.batch(), return_dict=True)
    change = {v.path: np.sum((v.numpy() - before[v.path]).astype("float64") ** 2) for v in model.trainable_variables}
    assert logs["update_norm"] == pytest.approx(np.sqrt(sum(change.values())), rel=1e-3)
    image = sum(value for path, value in change.items() if path.startswith(model.image.variables[0].path.split("/")[0]))
    assert logs["image_update_norm"] <= np.sqrt(image) * 1.001


@pytest.mark.parametrize("options", [{}, {"microbatch_size": 8}], ids=str)
@pytest.mark.slow
def test_a_frozen_tower_costs_no_gradient(options):
    model = small.model(**options)
    model.compile(AdamW(learning_rate=1e-2, groups=[ParameterGroup("(^|/)image/", freeze=True)]), run_eagerly=True)
    assert model.image.trainable_variables == []
    assert len(model.optimizer._momentums) == len(model.trainable_variables) > 0
    before = [v.numpy() for v in model.image.variables]
    model.fit(small.dataset(steps=1), verbose=0)
    for mine, theirs in zip(before, model.image.variables, strict=True):
        np.testing.assert_array_equal(mine, theirs.numpy())

    assert _products(model) < 0.75 * _products(_compiled(small.model(**options)))


def _compiled(model):
    model.compile(AdamW(), run_eagerly=True)
    return model


def _products(model):
    """Matrix products and convolutions in the traced step, forward and backward."""
    spec = {key: tf.TensorSpec(value.shape, value.dtype) for key, value in small.batch().items()}
    graph = tf.function(model.train_step).get_concrete_function(spec).graph.as_graph_def()
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    kinds = ("MatMul", "BatchMatMulV2", "Einsum", "Conv2D", "Conv2DBackpropFilter", "Conv2DBackpropInput")
    return sum(node.op in kinds for node in nodes)
