"""The measurements of `python -m tools.tpu_host RECIPE` on the chips."""

from __future__ import annotations

import time

import numpy as np
import tensorflow as tf

from siglip_tf import losses, tpu

_UNTIMED = 5  # number of first steps that are not timed


def peak_bytes(strategy: tf.distribute.Strategy) -> int:
    """Returns the peak memory of the first chip so far, in bytes."""
    return tf.config.experimental.get_memory_info(strategy.extended.worker_devices[0])["peak"]


def loss_error(strategy: tf.distribute.Strategy, b: int = 32, d: int = 64) -> float:
    """Returns the relative error of the ring's loss under this strategy, against numpy in float64.

    Args:
        strategy: the strategy of the chips.
        b: number of pairs per replica.
        d: size of the embeddings.
    """
    rng, n = np.random.default_rng(0), b * strategy.num_replicas_in_sync
    x, y = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in rng.standard_normal((2, n, d)))
    parts = [
        strategy.experimental_distribute_values_from_function(
            lambda c, v=v: tf.constant(np.split(v, n // b)[c.replica_id_in_sync_group], tf.float32)
        )
        for v in (x, y)
    ]

    def step(x, y):
        return losses.sigmoid_loss(x, y, tf.constant(np.float32(np.log(10))), tf.constant(-10.0))

    shares = tf.function(lambda x, y: strategy.run(step, (x, y)))(*parts)
    found = sum(float(v) for v in strategy.experimental_local_results(shares))
    z = 2 * np.eye(n) - 1
    return abs(found / (np.sum(np.logaddexp(0, -z * (10 * x @ y.T - 10))) / n) - 1)


def step_seconds(strategy: tf.distribute.Strategy, recipe: tpu.Recipe, global_batch: int, steps: int) -> float:
    """Returns the median seconds of a training step with one random batch that is already on the chips' host."""
    with strategy.scope():
        subject = recipe()
    rng = np.random.default_rng(0)
    batch = {
        key: rng.integers(0, 32, (global_batch, *spec.shape), np.int32)
        if spec.dtype.is_integer
        else rng.uniform(-1, 1, (global_batch, *spec.shape)).astype(np.float32)
        for key, spec in subject.batch.items()
    }
    iterator = iter(strategy.experimental_distribute_dataset(tf.data.Dataset.from_tensors(batch).repeat()))
    subject.model.make_train_function()
    times = []
    for _ in range(steps + _UNTIMED):
        started = time.perf_counter()
        logs = subject.model.train_function(iterator)
        tf.nest.map_structure(lambda value: value.numpy(), logs)
        times.append(time.perf_counter() - started)
    return float(np.median(times[_UNTIMED:]))
