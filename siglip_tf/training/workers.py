"""Which process of a multi-worker run this is, and the one agreement that resuming needs."""

import dataclasses
import json
import time
from typing import Any

import numpy as np
import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Worker:
    """This process among the workers that share one strategy.

    Attributes:
        index: 0 for the chief.
        count: 1 unless `MultiWorkerMirroredStrategy` runs over several processes.
    """

    index: int = 0
    count: int = 1

    @property
    def is_chief(self) -> bool:
        """Whether this process writes what is shared."""
        return self.index == 0


def this_worker(strategy: tf.distribute.Strategy) -> Worker:
    """This process's place. TPUStrategy and MirroredStrategy have one controlling process."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return Worker()
    resolver = strategy.cluster_resolver
    cluster = resolver.cluster_spec().as_dict()
    chiefs, workers = len(cluster.get("chief", ())), len(cluster.get("worker", ()))
    if chiefs + workers < 2:
        return Worker()
    index = resolver.task_id + (chiefs if resolver.task_type == "worker" else 0)
    return Worker(index, chiefs + workers)


def left_files(strategy: tf.distribute.Strategy, directory: str) -> dict[int, str]:
    """The file by which each worker but the chief says that it is through."""
    return {i: tf.io.gfile.join(directory, f"left_{i}") for i in range(1, this_worker(strategy).count)}


def leave_together(strategy: tf.distribute.Strategy, directory: str, seconds: float = 60.0) -> None:
    """Lets the chief wait until the others need it no more, before it may end.

    A worker that has the result of a collective may still owe its parts to another one, which fails if the process
    ends first. No collective can tell; so the others say by a file that they are through.

    Args:
        strategy: the run's strategy; nothing happens with one worker.
        directory: a folder that all workers share.
        seconds: after which the chief waits no longer (a worker may have been killed).
    """
    worker = this_worker(strategy)
    if worker.count == 1:
        return
    files = left_files(strategy, directory)
    if not worker.is_chief:
        with tf.io.gfile.GFile(files[worker.index], "w") as file:
            file.write("")
        return
    end = time.monotonic() + seconds
    while not all(tf.io.gfile.exists(file) for file in files.values()) and time.monotonic() < end:
        time.sleep(0.05)
    for file in files.values():
        if tf.io.gfile.exists(file):
            tf.io.gfile.remove(file)


def share(strategy: tf.distribute.Strategy, value: Any) -> list[Any]:
    """Every worker's JSON value, by worker; all workers must call it at the same step."""
    if this_worker(strategy).count == 1:
        return [value]

    @tf.function(reduce_retracing=True)
    def gather(mine):
        context = tf.distribute.get_replica_context()
        return context.all_gather(tf.expand_dims(mine, 0), axis=0)

    def gathered(tensor):
        # A worker may have several replicas, which all say the same; the first of each is taken.
        rows = strategy.experimental_local_results(strategy.run(gather, args=(tensor,)))[0].numpy()
        return rows[:: len(rows) // this_worker(strategy).count]

    text = json.dumps(value).encode()
    lengths = gathered(tf.constant(len(text), tf.int64))
    padded = np.frombuffer(text.ljust(int(lengths.max())), np.uint8).astype(np.int32)
    return [json.loads(bytes(row.astype(np.uint8))) for row in gathered(tf.constant(padded))]


def agree(strategy: tf.distribute.Strategy, value: int, what: str) -> int:
    """Returns `value` if every worker has the same.

    Raises:
        RuntimeError: if the workers differ; `what` says about what.
    """
    everyone = share(strategy, value)
    if len(set(everyone)) > 1:
        raise RuntimeError(
            f"The workers disagree about {what}: {everyone}. They must share one directory (a network file system or "
            "an object store) and run the same script."
        )
    return value
