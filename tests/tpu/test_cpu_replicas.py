"""The TPU's program run by CPU replicas: loss and gradients are dense float64's, training is one device's."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from siglip_tf import optimizers, tpu
from siglip_tf.primitives.hashing import hash_bits
from tests.losses import dense
from tests.losses.test_negatives import kept_weights
from tests.models import small
from tests.tpu import programs
from tests.tpu.programs import B, T

pytestmark = programs.needs_compiler
SGD = functools.partial(keras.optimizers.SGD, 0.1)
# As in the distribution tests: AdamW's epsilon is above what rounding leaves of gradients that are zero.
OPTIMIZERS = {
    "adamw": functools.partial(optimizers.AdamW, 1e-3, epsilon=1e-6, global_clipnorm=0.5),
    "lion": functools.partial(optimizers.Lion, 1e-4, global_clipnorm=0.5),
    # A momentum in bfloat16 is rounded to another neighbour where float32 sums differ in the last bit: 1.1e-6 here.
    "adafactor": functools.partial(optimizers.ScalingViTAdafactor, 1e-4, momentum_dtype="float32", global_clipnorm=0.5),
}
N = 56
MASKS = {
    "sigmoid": {},
    "softmax": {"loss": "softmax"},
    "random": {"keep": "random", "ratio": 3},
    "hardest": {"keep": "hardest", "ratio": 2.5},
    "easiest": {"keep": "easiest", "ratio": 20},
}

FAST = {("sigmoid", 4)}


def expected(name, x, y):
    """Dense float64: loss and its gradients."""
    if name == "softmax":
        return dense.softmax(x, y, T)
    if name == "sigmoid":
        return dense.sigmoid(x, y, T, B)
    logits = x.astype(np.float64) @ y.astype(np.float64).T
    keys = {"hardest": logits, "easiest": -logits}.get(name)
    if keys is None:
        rows = tf.range(N)
        keys = np.asarray(tf.bitcast(hash_bits(7, rows[:, None], rows[None, :]), tf.int32), np.float64)
    return dense.sigmoid(x, y, T, B, kept_weights(keys, round(MASKS[name]["ratio"] * N)))


@pytest.mark.parametrize(
    ("name", "replicas"),
    [pytest.param(name, d, marks=[] if (name, d) in FAST else pytest.mark.slow) for name in MASKS for d in (2, 4, 8)],
)
def test_loss_and_gradients_equal_dense_float64(rng, name, replicas):
    x, y = dense.pairs(rng, N, alike=0.4)
    program = programs.loss_program(replicas, N // replicas, x.shape[1], **MASKS[name], tile_size=5)
    results = tpu.CPUReplicas(program, tpu.lower(program)).run({}, {"x": x, "y": y})
    value, dx, dy, *shares = results
    found = [np.sum(value), np.concatenate(dx), np.concatenate(dy), *(np.sum(share) for share in shares)]
    for got, right in zip(found, expected(name, x, y), strict=True):
        assert dense.relative_error(got, right) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [2, 4, 8])
@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
def test_six_steps_end_where_fit_on_one_device_ends(replicas, optimizer):
    make = OPTIMIZERS[optimizer]
    keras.utils.set_random_seed(0)
    model = programs.compiled(make)
    variables = programs.variables_of(model)
    data = small.dataset(global_batch=16, steps=6)
    steps = []
    keep = keras.callbacks.LambdaCallback(on_train_batch_end=lambda step, logs: steps.append(logs))
    model.fit(data, verbose=0, shuffle=False, callbacks=[keep])
    assert steps[0]["gradient_norm"] > 0.5, "clipping is on"
    after = programs.variables_of(model)

    program = programs.traced(replicas, 16, make)
    run = tpu.CPUReplicas(program, tpu.lower(program))
    for batch in data.as_numpy_iterator():
        variables, logs = run.step(variables, batch)
    assert abs(logs["loss"] / steps[-1]["loss"] - 1) < 1e-5
    for variable in model.trainable_variables:
        np.testing.assert_allclose(
            variables[variable.path], after[variable.path], rtol=0, atol=1e-6, err_msg=variable.path
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{"microbatch_size": 4, "remat": "block", "scan_layers": True}, {"remat": "block", "dropout": 0.2}],
    ids=str,
)
def test_ways_to_save_memory_do_not_change_the_step(options):
    plain = {k: v for k, v in options.items() if k == "dropout"}
    model = programs.compiled(SGD, **plain)
    variables = programs.variables_of(model)
    found = []
    for each in (options, plain):
        program = programs.traced(2, 16, SGD, **each)
        found.append(tpu.CPUReplicas(program, tpu.lower(program)).step(variables, small.batch())[0])
    for name, value in found[0].items():
        np.testing.assert_allclose(value, found[1][name], atol=2e-6, err_msg=name)


def test_wrong_values_are_named():
    program = programs.loss_program(2, 4, 8)
    run = tpu.CPUReplicas(program, tpu.lower(program))
    x = np.zeros((8, 8), np.float32)
    with pytest.raises(ValueError, match="Expected a value of data 'y'"):
        run.run({}, {"x": x})
    with pytest.raises(ValueError, match="of shape \\(8, 8\\)"):
        run.run({}, {"x": x[:4], "y": x})
