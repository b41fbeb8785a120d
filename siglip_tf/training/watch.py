"""Watches the metrics for NaN and spikes (section 4.7, figure 5), and stops the run or skips the data."""

import math
import statistics
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import keras
import tensorflow as tf

from siglip_tf.training.metric_values import scalars
from siglip_tf.training.resume import Resume
from siglip_tf.training.store import CheckpointStore


class UnstableTrainingError(RuntimeError):
    """Raised if a metric is not finite or has a spike.

    Attributes:
        step: the step whose metrics show the fault.
        batches: the number of batches consumed by then. The last of them caused the fault.
        may_skip: whether the run may go back to the last checkpoint and skip the batches since then.
    """

    def __init__(self, message: str, step: int, batches: int, may_skip: bool):
        super().__init__(message)
        self.step = step
        self.batches = batches
        self.may_skip = may_skip


class Watch(keras.callbacks.Callback):
    """Raises `UnstableTrainingError` during `fit` if a metric is not finite or has a spike.

    The state at that moment is written to `directory/post_mortem` with the metrics of the last steps, so that the step
    and its batch can be examined. With `action="skip"`, `train` goes back to the last checkpoint and skips the batches
    since then, as people do by hand in large runs. With `action="stop"`, the error reaches the user. A step that a loss
    scaler skips (`mixed_float16`) is not a fault unless its loss is not finite.

    Put this callback before `Resume`, so that a broken state is never saved as a checkpoint.

    Args:
        resume: the run's `Resume` callback, which counts the steps and writes the state.
        action: "stop" or "skip".
        spikes: a factor for each metric to watch. A value is a spike if it is larger than this factor times the median
            of the last `window` values. By default only NaN is watched.
        window: how many steps the median covers.
        patience: number of steps before spikes count.
        every: number of steps between checks. Each check waits for the device.
        say: a function that receives messages.

    Raises:
        ValueError: if the action is unknown or a number is out of range.
    """

    def __init__(
        self,
        resume: Resume,
        action: str = "stop",
        *,
        spikes: Mapping[str, float] | None = None,
        window: int = 100,
        patience: int = 100,
        every: int = 1,
        say: Callable[[str], None] = print,
    ):
        super().__init__()
        if action not in ("stop", "skip"):
            raise ValueError(f"Expected action to be 'stop' or 'skip'. Received: action={action!r}")
        for name, factor in (spikes or {}).items():
            if not factor > 1:
                raise ValueError(f"Expected a spike's factor over the median > 1. Received: {name}={factor}")
        if window < 2 or every < 1 or patience < 0:
            raise ValueError(
                f"Expected window >= 2, every >= 1, patience >= 0. Received: {window=}, {every=}, {patience=}"
            )
        self.resume = resume
        self.action = action
        self.spikes = dict(spikes or {})
        self.patience = patience
        self.every = every
        self.say = say
        self._recent: deque[dict[str, float]] = deque(maxlen=window)
        self._looked = 0
        self._seen = 0

    def on_train_batch_end(self, batch, logs=None):
        before = self.resume.step
        self._seen += self.resume.count(batch) - before
        if self._seen - self._looked < self.every:
            return
        self._looked = self._seen
        metrics = scalars(logs)
        fault = self.fault(metrics)
        if fault is None:
            if not self.resume.passed_over.last:
                self._recent.append(metrics)
            return
        directory = tf.io.gfile.join(self.resume.directory, "post_mortem")
        path = self.resume.save({**metrics}, CheckpointStore(directory, keep_last=5), history=[*self._recent, metrics])
        message = f"{fault} at step {self.resume.step:,}; the state is in {path}"
        self._recent.clear()
        self._seen = self._looked = 0
        raise UnstableTrainingError(message, self.resume.step, self.resume.batches, self.action == "skip")

    def fault(self, metrics: Mapping[str, Any]) -> str | None:
        """Returns an error message if a step's metrics are not finite or have a spike, else None."""
        passed_over = self.resume.passed_over
        for name in passed_over.relevant(metrics):
            if not math.isfinite(metrics[name]):
                return f"{name} is {metrics[name]}"
        if fault := passed_over.fault():
            return fault
        if passed_over.last or self._seen <= self.patience or len(self._recent) < 2:
            return None
        for name, factor in self.spikes.items():
            if name not in metrics:
                raise ValueError(f"There is no metric {name!r} to watch for spikes. There are: {sorted(metrics)}")
            median = statistics.median(recent[name] for recent in self._recent)
            if metrics[name] > factor * abs(median):
                return f"{name} is {metrics[name]:.4g}, over {factor:g} times its median {median:.4g}"
        return None
