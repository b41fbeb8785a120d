"""Steps traced under a made-up TPUStrategy, for the tests."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from siglip_tf import tpu
from siglip_tf.distribution import current_ring
from siglip_tf.losses import Negatives, pair_labels, sigmoid_loss_and_gradients, softmax_loss_and_gradients
from tests.models import small

# Tests of the compiler do not pass by where it is missing: they say how to get it.
needs_compiler = pytest.mark.usefixtures("compiler_installed")
BATCH = {"image": tf.TensorSpec((16, 16, 3)), "text": tf.TensorSpec((5,), tf.int32)}


def subject(optimizer, **options) -> tpu.Subject:
    return tpu.Subject(compiled(optimizer, **options), BATCH)


def tiny(**options) -> tpu.Subject:
    """A recipe as the tools name it."""
    return subject(functools.partial(keras.optimizers.SGD, 0.1), **options)


def compiled(optimizer, **options):
    """A small model with names that do not count up, as variables are matched by name."""
    model = small.model(name="siglip", **options)
    model.compile(optimizer(name="optimizer"))
    return model


def traced(replicas, global_batch, optimizer, **options) -> tpu.ReplicaProgram:
    recipe = functools.partial(subject, optimizer, **options)
    program, _ = tpu.trace_recipe(recipe, replicas, global_batch)
    return program


def variables_of(model) -> dict[str, np.ndarray]:
    """Values by the names that a program gives them."""
    return {v.path: v.numpy() for v in [*model.variables, *model.optimizer.variables]}


T, B = np.float32(np.log(10)), np.float32(-10)


def loss_program(replicas, b, d, loss="sigmoid", tile_size=3, rules=None, **negatives) -> tpu.ReplicaProgram:
    """The loss of b pairs a replica and its gradients, as a step of their own.

    `rules` are the choices for pairs of one group and of equal captions; the batch then holds "group" and "ids".
    """

    def step(batch):
        ring, x, y = current_ring(), batch["x"], batch["y"]
        labels = None
        if rules:
            labels = pair_labels(batch["group"], rules[0], batch["ids"], rules[1], b)
        common = {"tile_size": tile_size, "labels": labels}
        if loss == "softmax":
            result = softmax_loss_and_gradients(ring, x, y, tf.constant(T), **common)
        else:
            chosen = Negatives(**negatives) if negatives else None
            t, bias, seed = tf.constant(T), tf.constant(B), tf.constant(7)
            result = sigmoid_loss_and_gradients(ring, x, y, t, bias, negatives=chosen, seed=seed, **common)
        return [result.loss, *result.gradients()]

    spec = tf.TensorSpec((b, d))
    data = {"x": spec, "y": spec}
    if rules:
        data |= {"group": tf.TensorSpec((b,), tf.int64), "ids": tf.TensorSpec((b, 2), tf.int32)}
    return tpu.trace_step(step, data, tpu.made_up_tpu_strategy(replicas), [])
