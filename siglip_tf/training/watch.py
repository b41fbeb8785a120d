"""Watches the metrics for NaN and spikes (section 4.7, figure 5): stop, or go back and skip the data."""

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
    """A metric that is not finite, or a spike.

    Attributes:
        step: the step whose metrics show it.
        batches: batches consumed by then; the fault's batch is the last of them.
        may_skip: whether the run is to go back to the last checkpoint and pass over the batches since.
    """

    def __init__(self, message: str, step: int, batches: int, may_skip: bool):
        super().__init__(message)
        self.step = step
        self.batches = batches
        self.may_skip = may_skip


class Watch(keras.callbacks.Callback):
    """Ends `fit` by a `UnstableTrainingError` when a metric is not finite or leaves its own recent past.

    The state at that moment is written to `directory/post_mortem` with the last steps' metrics, so that the step and
    its batch can be examined. With `action="skip"` `train` goes back to the last checkpoint and skips the batches
    since then, as large runs do by hand; with `action="stop"` the error reaches the user. A step that a loss scaler
    passes over (`mixed_float16`) is no fault, unless its loss is not finite.

    Put it before `Resume` among the callbacks, so that a broken state never becomes a checkpoint.

    Args:
        resume: the run's `Resume`, which knows the step and writes the state.
        action: "stop" or "skip".
        spikes: for each metric, how many times the median of its last `window` values is a spike; empty for NaN alone.
        window: how many steps the median covers.
        patience: steps before spikes count.
        every: steps between looks; each look waits for the device.
        say: receives messages.

    Raises:
        ValueError: for another action or numbers out of range.
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
        """What is wrong with a step's metrics beside the recent ones, or None."""
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
