"""Schedules against optax's, durations against arithmetic."""

import keras
import numpy as np
import optax
import pytest
import tensorflow as tf

from siglip_tf.optimizers import Constant, Cosine, Duration, Linear, ReciprocalSqrt

STEPS = np.arange(0, 121)


def values(schedule):
    return np.array([float(schedule(tf.constant(step, tf.int64))) for step in STEPS])


def oracle(schedule):
    return np.array([float(schedule(int(step))) for step in STEPS])


def test_cosine_equals_optax():
    expected = oracle(optax.warmup_cosine_decay_schedule(0.0, 1.0, 20, 100))
    np.testing.assert_allclose(values(Cosine(100, warmup_steps=20)), expected, atol=1e-6)


def test_linear_equals_optax():
    expected = oracle(optax.join_schedules([optax.linear_schedule(0, 1, 20), optax.linear_schedule(1, 0, 80)], [20]))
    np.testing.assert_allclose(values(Linear(100, warmup_steps=20)), expected, atol=1e-6)


def test_constant_equals_optax():
    expected = oracle(optax.linear_schedule(0, 1, 20))
    np.testing.assert_allclose(values(Constant(warmup_steps=20)), expected, atol=1e-6)


def test_reciprocal_square_root_with_cooldown():
    got = values(ReciprocalSqrt(100, warmup_steps=10, cooldown_steps=20, timescale=30, shift=15))
    step = STEPS.astype("float64")
    expected = 1 / np.sqrt(1 + (np.maximum(step - 10, 0) + 15) / 30)
    expected *= np.minimum(1, step / 10) * np.clip((100 - step) / 20, 0, 1)
    np.testing.assert_allclose(got, expected, atol=1e-6)


@pytest.mark.parametrize(
    "schedule",
    [Constant(warmup_steps=3), Cosine(9, 2), Linear(9, 2), ReciprocalSqrt(9, 2, 3, 7, 1)],
    ids=lambda schedule: type(schedule).__name__,
)
def test_schedules_stay_in_0_1_and_come_back_from_their_config(schedule):
    got = values(schedule)
    assert got.min() >= 0 and got.max() <= 1
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    np.testing.assert_array_equal(values(again), got)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"total_steps": 10, "warmup_steps": 11}, "do not fit into total_steps=10"),
        ({"total_steps": 10, "warmup_steps": 1.5}, "warmup_steps=1.5"),
        ({"total_steps": 0}, "total_steps=0"),
    ],
)
def test_impossible_schedules_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Cosine(**arguments)
    with pytest.raises(ValueError, match="needs total_steps"):
        Constant(cooldown_steps=3)


@pytest.mark.parametrize(
    ("value", "steps"),
    [
        (65_000, 65_000),
        ("65k steps", 65_000),
        ("18B examples", 1_098_633),
        ("3 epochs", 1_465),
        ("1 epoch", 488),
        ("10%", 700),
        ({"examples": 1}, 1),
        ({"epochs": 0}, 0),
        (Duration(2.5, "epochs"), 1_221),
        ("6_500 steps", 6_500),
    ],
)
def test_durations_become_steps(value, steps):
    batch = 16_384
    assert Duration.of(value).to_steps(batch, examples_per_epoch=8_000_000, total_steps=7_000) == steps


@pytest.mark.parametrize("value", ["many", "3 moons", -3, True, {"epochs": 1, "steps": 2}, "-3 steps", None])
def test_durations_that_make_no_sense_are_named(value):
    with pytest.raises(ValueError, match="duration"):
        Duration.of(value)


def test_a_missing_size_is_named():
    with pytest.raises(ValueError, match=r"epochs needs examples_per_epoch > 0.*None"):
        Duration(3, "epochs").to_steps(global_batch_size=8)
    with pytest.raises(ValueError, match="examples needs global_batch_size"):
        Duration.of("40B examples").to_steps()
