"""Frozen weights do not move, whatever saves memory; the others train as they do where nothing is computed again."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from siglip_tf.optimizers import AdamW, ParameterGroup
from tests.models import small

SIZES = {"image_depth": 2, "text_depth": 2}


def freeze_image(model):
    model.image.trainable = False


def freeze_text(model):
    model.text.trainable = False


def freeze_layers(model):
    model.image.blocks[0].trainable = False
    model.image.blocks[1].mlp.fc1.trainable = False
    model.text.token_embedding.trainable = False
    model.text.blocks[1].attention.query.kernel.trainable = False


def adapt(model):
    """Keras' own protocol, as its guides use it; it freezes the kernels alone."""
    for layer in model._flatten_layers():
        if hasattr(layer, "enable_lora"):
            layer.enable_lora(2)
    for variable in model.trainable_variables:
        if variable.name == "lora_kernel_b":  # zeros would hide half of the gradients
            seed = len(variable.path)
            variable.assign(np.random.default_rng(seed).normal(0, 0.02, variable.shape))


FREEZERS = {f.__name__: f for f in (freeze_image, freeze_text, freeze_layers, adapt)}
WAYS = {
    "block": {"remat": "block"},
    "old name": {"remat": "selective"},
    "loop": {"remat": "block", "scan_layers": True},
    "microbatch": {"remat": "block", "microbatch_size": 4},
}


FAST = (("freeze_layers", "block"),)


@functools.cache
def trained(freezer, way=None):
    keras.utils.set_random_seed(3)
    model = small.model(**SIZES, **WAYS.get(way, {}))
    keras.utils.set_random_seed(4)
    FREEZERS[freezer](model)
    frozen = {name: v.numpy() for name, v in model.named_weights().items() if not v.trainable}
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9, global_clipnorm=1.0))
    model.fit(small.dataset(8, steps=2), verbose=0)
    for name, value in frozen.items():
        np.testing.assert_array_equal(model.named_weights()[name].numpy(), value, err_msg=name)
    return {v.path.partition("/")[2]: v.numpy() for v in model.trainable_variables}


@pytest.mark.parametrize(
    ("freezer", "way"),
    [
        *FAST,
        *(pytest.param(f, w, marks=pytest.mark.slow) for f in FREEZERS for w in WAYS if (f, w) not in FAST),
    ],
)
@pytest.mark.slow
def test_trains_as_without_remat_and_frozen_weights_stay(freezer, way):
    found, expected = trained(freezer, way), trained(freezer)
    assert found.keys() == expected.keys() and found
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-6, err_msg=name)


@pytest.mark.slow
def test_a_loop_of_ones_own_trains_with_dropout_remat_and_no_warning():
    """Keras' `apply_gradients` warns of variables without a gradient, and warnings are errors here."""
    model = small.model(dropout=0.1, stochastic_depth=0.1, remat="block", **SIZES)
    optimizer, batch = AdamW(groups=[ParameterGroup("position", learning_rate_multiplier=0.5)]), small.batch(4)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            found = model(batch, training=True)
            logits = model.logits(found["image_embedding"], found["text_embedding"])
            loss = -tf.reduce_sum(tf.math.log_sigmoid((2 * tf.eye(4) - 1) * logits)) / 4
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return gradients

    gradients = dict(zip((v.path for v in model.trainable_variables), step(), strict=True))
    keys = [g for path, g in gradients.items() if path.endswith("key/bias")]
    assert len(keys) == 5 and all(np.all(g == 0) for g in keys)
    assert all(np.any(g != 0) for path, g in gradients.items() if not path.endswith("key/bias"))
