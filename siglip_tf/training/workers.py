"""Workers of a run with several processes: which one this is, and how they share values and stop together."""

import dataclasses
import json
import time
from typing import Any

import numpy as np
import tensorflow as tf

from siglip_tf.storage import is_object_store, remove, write_file


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
        """Whether this process writes the files that all workers share."""
        return self.index == 0


def this_worker(strategy: tf.distribute.Strategy) -> Worker:
    """Returns this process's index among the workers. TPUStrategy and MirroredStrategy have one process."""
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
    """Returns the files with which the workers other than the chief report that they have finished."""
    return {i: tf.io.gfile.join(directory, f"left_{i}") for i in range(1, this_worker(strategy).count)}


def leave_together(strategy: tf.distribute.Strategy, directory: str) -> None:
    """Makes the chief wait until the other workers have finished, at most a minute, since one may have been killed.

    A worker that has the result of a collective may still have to send its part to another worker, which fails if this
    process ends first. A collective cannot tell when that is done, so each other worker writes a file when it has
    finished.

    Args:
        strategy: the run's strategy. With one worker, nothing happens.
        directory: a folder that all workers share.
    """
    worker = this_worker(strategy)
    if worker.count == 1:
        return
    files = left_files(strategy, directory)
    if not worker.is_chief:
        write_file(files[worker.index], "")
        return
    end, pause = time.monotonic() + 60.0, 1.0 if is_object_store(directory) else 0.05
    while not all(tf.io.gfile.exists(file) for file in files.values()) and time.monotonic() < end:
        time.sleep(pause)
    for file in files.values():
        remove(file)


def share(strategy: tf.distribute.Strategy, value: Any) -> list[Any]:
    """Returns the JSON values of all workers, in order. All workers must call it at the same step."""
    if this_worker(strategy).count == 1:
        return [value]

    @tf.function(reduce_retracing=True)
    def gather(mine):
        context = tf.distribute.get_replica_context()
        return context.all_gather(tf.expand_dims(mine, 0), axis=0)

    def gathered(tensor):
        # A worker may have several replicas, which all hold the same value. Take the first of each.
        rows = strategy.experimental_local_results(strategy.run(gather, args=(tensor,)))[0].numpy()
        return rows[:: len(rows) // this_worker(strategy).count]

    text = json.dumps(value).encode()
    lengths = gathered(tf.constant(len(text), tf.int64))
    padded = np.frombuffer(text.ljust(int(lengths.max())), np.uint8).astype(np.int32)
    return [json.loads(bytes(row.astype(np.uint8))) for row in gathered(tf.constant(padded))]


def agree(strategy: tf.distribute.Strategy, value: int, what: str) -> int:
    """Returns `value` if every worker has the same value.

    Raises:
        RuntimeError: if the workers' values differ. `what` names the value in the message.
    """
    everyone = share(strategy, value)
    if len(set(everyone)) > 1:
        raise RuntimeError(
            f"The workers disagree about {what}: {everyone}. They must share one directory (a network file system or "
            "an object store) and run the same script."
        )
    return value


class StopQuestion:
    """Asks all workers from time to time whether one of them was told to stop, so that they stop after the same step.

    A single worker asks itself after every step. Several workers need a collective, about once per second. Each answer
    contains the seconds per step, from which all workers compute the same step for the next question.

    Args:
        strategy: the run's strategy.
        seconds: the time between two questions.
    """

    def __init__(self, strategy: tf.distribute.Strategy, seconds: float = 1.0):
        self._strategy = strategy
        self._seconds = seconds
        self._worker = this_worker(strategy)
        self._next = 0
        self._last: tuple[int, float] | None = None

    def __call__(self, step: int, received: int | None) -> int | None:
        """Returns the signal that any worker received, or None.

        Args:
            step: the number of steps done, the same on every worker.
            received: the signal that this worker received.
        """
        if self._worker.count == 1:
            return received
        if step < self._next:
            return None
        now = time.monotonic()
        pace = 0.0 if self._last is None else (now - self._last[1]) / max(1, step - self._last[0])
        self._last = step, now
        answers = share(self._strategy, [received or 0, pace])
        slowest = max(pace for _, pace in answers)
        self._next = step + (max(1, int(self._seconds / slowest)) if slowest else 1)
        return max(number for number, _ in answers) or None
