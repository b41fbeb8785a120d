"""Writes a run's metrics: a JSON line every few steps, and TensorBoard events.

Source: section 4.7 and figure 5 (norms of gradients, parameters, and updates), figure 6 (bias, logits).
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import keras
import tensorflow as tf

from siglip_tf.storage import is_object_store
from siglip_tf.training.metric_values import scalars
from siglip_tf.training.metrics_file import MetricsFile
from siglip_tf.training.progress import Speed


class Measured(Protocol):
    """An object that holds the metrics of the last evaluation, such as `PeriodicEvaluation`."""

    figures: dict[str, float]
    figures_step: int | None


class Diagnostics(keras.callbacks.Callback):
    """Writes `directory/metrics.jsonl` and TensorBoard events.

    A line holds "step", the metrics that `train_step` returned, the learning rate and its schedule, the figures of
    `Speed`, and the metrics of an evaluation at that step. A value that is not finite is written as null, so that every
    line is valid JSON. When a run continues from a checkpoint, the lines of later steps are removed, because those
    steps are trained again.

    Args:
        directory: the run's folder, local or `gs://`.
        speed: the run's `Speed`.
        step: returns the number of steps done (`lambda: resume.step`).
        every: number of steps between lines. A step with an evaluation gets a line too.
        total_steps: number of steps of the run, to estimate the time left.
        tensorboard: whether to write TensorBoard events to `directory/tensorboard` too.
        evaluation: the evaluation callback. It must come before this callback.
    """

    def __init__(
        self,
        directory: str,
        speed: Speed,
        step: Callable[[], int],
        *,
        every: int = 50,
        total_steps: int | None = None,
        tensorboard: bool = True,
        evaluation: Measured | None = None,
    ):
        super().__init__()
        if every < 1:
            raise ValueError(f"Expected every >= 1 step. Received: every={every}")
        self.directory = str(directory)
        self.path = tf.io.gfile.join(self.directory, "metrics.jsonl")
        self.speed = speed
        self.step = step
        self.every = every
        self.total_steps = total_steps
        self.evaluation = evaluation
        self._file = MetricsFile(self.path)
        self._tensorboard = tensorboard
        self._writer: tf.summary.SummaryWriter | None = None
        self._written = 0
        self._shown: int | None = None  # the step whose figures were written last

    def on_train_begin(self, logs=None):
        tf.io.gfile.makedirs(self.directory)
        self._written = self.step()
        figures = self._figures(self._written)
        self._file.begin(self._written, figures)
        if self._tensorboard and self._writer is None:
            self._writer = tf.summary.create_file_writer(tf.io.gfile.join(self.directory, "tensorboard"))
        if figures:
            self.write(self._written, figures)

    def on_train_batch_end(self, batch, logs=None):
        step = self.step()
        figures = self._figures(step)
        if figures or step // self.every > self._written // self.every:
            self._written = step
            self.write(step, {**scalars(logs), **figures})

    def on_train_end(self, logs=None):
        self.close()

    def close(self) -> None:
        """Completes and closes the files. `fit` does this unless it raises an exception."""
        self._file.close()
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes one line of metrics and figures."""
        left = None if self.total_steps is None else self.total_steps - step
        values = {**metrics, **self._rates(), **self.speed.figures(left)}
        values["examples"] = step * self.speed.global_batch_size
        self._file.append({"step": step, **values})
        if self._writer is not None:
            with self._writer.as_default(step=step):
                for name, value in values.items():
                    if math.isfinite(value):
                        tf.summary.write(name, tf.constant(value, tf.float32), metadata=_scalar_metadata())
            if not is_object_store(self.directory):  # in an object store, a flush writes the whole object again
                self._writer.flush()

    def _figures(self, step: int) -> dict[str, float]:
        """Returns the metrics of an evaluation at this step the first time, and nothing after that."""
        if self.evaluation is None or self.evaluation.figures_step != step or self._shown == step:
            return {}
        self._shown = step
        return self.evaluation.figures

    def _rates(self) -> dict[str, float]:
        optimizer: Any = self.model.optimizer
        rate = {"learning_rate": float(keras.ops.convert_to_numpy(optimizer.learning_rate))}
        if (schedule := getattr(optimizer, "schedule", None)) is not None:
            rate["schedule"] = float(schedule(keras.ops.convert_to_numpy(optimizer.iterations)))
        return rate


def _scalar_metadata() -> tf.compat.v1.SummaryMetadata:
    # This is what `tf.summary.scalar` writes. That function needs the tensorboard package, which TensorFlow does not
    # require.
    plugin = tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars")
    return tf.compat.v1.SummaryMetadata(plugin_data=plugin, data_class=1)
