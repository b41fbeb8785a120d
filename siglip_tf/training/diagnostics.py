"""The run's metrics on disk: one JSON line every so many steps, and TensorBoard.

Source: section 4.7 and figure 5 (norms of gradient, parameters and updates), figure 6 (bias, logits).
"""

import json
import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import keras
import tensorflow as tf

from siglip_tf.training.progress import Speed
from siglip_tf.training.resume import plain


class Diagnostics(keras.callbacks.Callback):
    """Writes `directory/metrics.jsonl` and TensorBoard events.

    A line holds "step", the step's metrics as `train_step` returned them, the learning rate with its schedule, and the
    `Speed`'s figures. What is not finite is written as null, so that every line is JSON. On going on from a checkpoint
    the lines after its step are dropped: they belong to a past that is trained again.

    Args:
        directory: the run's folder, local or `gs://`.
        speed: the run's `Speed`.
        step: returns the number of steps done (`lambda: resume.step`).
        every: steps between lines.
        total_steps: steps of the run, for the time left.
        tensorboard: whether to write TensorBoard events to `directory/tensorboard` too.
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
        self._tensorboard = tensorboard
        self._writer: tf.summary.SummaryWriter | None = None
        self._written = 0

    def on_train_begin(self, logs=None):
        tf.io.gfile.makedirs(self.directory)
        self._written = self.step()
        keep_lines_until(self.path, self._written)
        if self._tensorboard and self._writer is None:
            self._writer = tf.summary.create_file_writer(tf.io.gfile.join(self.directory, "tensorboard"))

    def on_train_batch_end(self, batch, logs=None):
        step = self.step()
        if step // self.every > self._written // self.every:
            self._written = step
            self.write(step, plain(logs))

    def on_train_end(self, logs=None):
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes one line of metrics and figures."""
        left = None if self.total_steps is None else self.total_steps - step
        values = {**metrics, **self._rates(), **self.speed.figures(left)}
        values["examples"] = step * self.speed.global_batch_size
        line = {"step": step, **{k: v if math.isfinite(v) else None for k, v in values.items()}}
        with tf.io.gfile.GFile(self.path, "a") as file:
            file.write(json.dumps(line) + "\n")
        if self._writer is not None:
            with self._writer.as_default(step=step):
                for name, value in values.items():
                    tf.summary.write(name, tf.constant(value, tf.float32), metadata=_scalar_metadata())
            self._writer.flush()

    def _rates(self) -> dict[str, float]:
        optimizer: Any = self.model.optimizer
        rate = {"learning_rate": float(keras.ops.convert_to_numpy(optimizer.learning_rate))}
        if (schedule := getattr(optimizer, "schedule", None)) is not None:
            rate["schedule"] = float(schedule(keras.ops.convert_to_numpy(optimizer.iterations)))
        return rate


def _scalar_metadata() -> tf.compat.v1.SummaryMetadata:
    # As `tf.summary.scalar` writes it; that function needs the tensorboard package, which TensorFlow does not require.
    plugin = tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars")
    return tf.compat.v1.SummaryMetadata(plugin_data=plugin, data_class=1)


def read_metrics(path: str) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`; a last line torn by a kill is left out."""
    if not tf.io.gfile.exists(path):
        return []
    with tf.io.gfile.GFile(path, "r") as file:
        lines = file.read().split("\n")
    return [json.loads(line) for line in lines[:-1] if line.endswith("}")]


def keep_lines_until(path: str, step: int) -> None:
    """Drops the lines of a `metrics.jsonl` that are later than a step, or torn; written aside, then renamed."""
    if not tf.io.gfile.exists(path):
        return
    kept = [line for line in read_metrics(path) if line["step"] <= step]
    aside = f"{path}.{os.getpid()}"
    with tf.io.gfile.GFile(aside, "w") as file:
        file.write("".join(json.dumps(line) + "\n" for line in kept))
    tf.io.gfile.rename(aside, path, overwrite=True)
