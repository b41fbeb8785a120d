"""For someone with a TPU: the same checks on the chip, beside what the compiler said without one.

python -m tools.tpu_report siglip --global-batch 4096 --json > estimate.json    # anywhere
python -m tools.tpu_host siglip --global-batch 4096 --estimate estimate.json    # on the TPU host
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import tensorflow as tf

from siglip_tf import losses, tpu
from siglip_tf.tpu.topology import GIB

from .tpu_report import find_recipe

_UNTIMED = 5  # first steps


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", metavar="RECIPE", help="as for tools.tpu_report")
    parser.add_argument("--tpu", default="local", help="name or address of the TPU (default: this host's)")
    parser.add_argument("--global-batch", type=int, default=4096)
    parser.add_argument(
        "--steps", type=int, default=30, help=f"steps to time, behind {_UNTIMED} others (default %(default)s)"
    )
    parser.add_argument("--estimate", type=Path, help="what tools.tpu_report --json printed for this recipe and batch")
    arguments = parser.parse_args(argv)
    strategy = connect(arguments.tpu)
    seconds = step_seconds(strategy, find_recipe(arguments.recipe), arguments.global_batch, arguments.steps)
    measured = {
        "loss, relative error": loss_error(strategy),
        "seconds a step": seconds,
        "peak GiB of a chip": peak_bytes(strategy) / GIB,
    }
    expected = {"loss, relative error": 1e-6}
    if arguments.estimate:
        (reports,) = json.loads(arguments.estimate.read_text()).values()
        expected |= {"seconds a step": reports[-1]["seconds"], "peak GiB of a chip": reports[-1]["used_gib"]}
    print(f"{'':<24}{'on the chip':>14}{'said before':>14}")
    for name, value in measured.items():
        before = f"{expected[name]:.4g}" if name in expected else "-"
        print(f"{name:<24}{value:>14.4g}{before:>14}")
    return 0


def connect(name: str) -> tf.distribute.Strategy:
    """The strategy of a TPU; "local" is this host's."""
    resolver = tf.distribute.cluster_resolver.TPUClusterResolver(name)
    tf.config.experimental_connect_to_cluster(resolver)
    tf.tpu.experimental.initialize_tpu_system(resolver)
    return tf.distribute.TPUStrategy(resolver)


def peak_bytes(strategy: tf.distribute.Strategy) -> int:
    """Most memory that the first chip has held so far."""
    return tf.config.experimental.get_memory_info(strategy.extended.worker_devices[0])["peak"]


def loss_error(strategy: tf.distribute.Strategy, b: int = 32, d: int = 64) -> float:
    """Of the ring's loss on this strategy against dense float64 numpy."""
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
    """Median time of a training step on one random batch that is already on the chips' host."""
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


if __name__ == "__main__":
    sys.exit(main())
