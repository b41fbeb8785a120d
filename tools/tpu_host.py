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

from siglip_tf import losses
from tools.tpu_report import find_recipe


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", metavar="RECIPE", help="as for tools.tpu_report")
    parser.add_argument("--tpu", default="local", help="name or address of the TPU (default: this host's)")
    parser.add_argument("--global-batch", type=int, default=4096)
    parser.add_argument(
        "--steps", type=int, default=30, help="steps to time, behind 5 that are not (default %(default)s)"
    )
    parser.add_argument("--estimate", type=Path, help="what tools.tpu_report --json printed for this recipe and batch")
    arguments = parser.parse_args(argv)
    resolver = tf.distribute.cluster_resolver.TPUClusterResolver(arguments.tpu)
    tf.config.experimental_connect_to_cluster(resolver)
    tf.tpu.experimental.initialize_tpu_system(resolver)
    strategy = tf.distribute.TPUStrategy(resolver)
    measured = {"loss, relative error": loss_error(strategy)}
    measured["seconds a step"] = step_seconds(strategy, find_recipe(arguments.recipe), arguments)
    expected = {"loss, relative error": 1e-6}
    if arguments.estimate:
        (reports,) = json.loads(arguments.estimate.read_text()).values()
        expected["seconds a step"] = reports[-1]["seconds"]
    print(f"{'':<24}{'on the chip':>14}{'said before':>14}")
    for name, value in measured.items():
        print(f"{name:<24}{value:>14.4g}{expected.get(name, float('nan')):>14.4g}")
    return 0


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


def step_seconds(strategy: tf.distribute.Strategy, recipe, arguments: argparse.Namespace) -> float:
    """Median time of a training step on one random batch that is already on the chips' host."""
    with strategy.scope():
        subject = recipe()
    rng, n = np.random.default_rng(0), arguments.global_batch
    batch = {
        key: rng.integers(0, 100, (n, *spec.shape), np.int32)
        if spec.dtype.is_integer
        else rng.uniform(-1, 1, (n, *spec.shape)).astype(np.float32)
        for key, spec in subject.batch.items()
    }
    data = tf.data.Dataset.from_tensors(batch).repeat()
    iterator = iter(strategy.experimental_distribute_dataset(data))
    subject.model.make_train_function()
    times = []
    for _ in range(arguments.steps + 5):
        started = time.perf_counter()
        logs = subject.model.train_function(iterator)
        tf.nest.map_structure(lambda v: v.numpy(), logs.get_value() if hasattr(logs, "get_value") else logs)
        times.append(time.perf_counter() - started)
    return float(np.median(times[5:]))


if __name__ == "__main__":
    sys.exit(main())
