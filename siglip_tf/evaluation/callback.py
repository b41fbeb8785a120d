"""Evaluations during `fit`."""

import json
import os
from collections.abc import Sequence

import keras
import tensorflow as tf

from siglip_tf.evaluation.embed import Embedder
from siglip_tf.evaluation.tasks import Evaluation, Task


class EvaluationCallback(keras.callbacks.Callback):
    """Evaluates tasks at the end of epochs, and adds their metrics to `logs` for the callbacks after this one.

    The names of the metrics are `<task>/<metric>`, for example `zero_shot/birds/top1`. `ModelCheckpoint(monitor=...)`,
    `EarlyStopping`, TensorBoard, and the history can use them if they come after this callback in the list.

    Args:
        tasks: the tasks to evaluate.
        every_epochs: number of epochs between evaluations. The last epoch of `fit` is always evaluated.
        batch_size: number of images or texts per step, over all replicas.
        jsonl: a file to which each evaluation appends one line with its epoch, step, and metrics.

    Raises:
        ValueError: if there are no tasks, or `every_epochs` is below 1.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        *,
        every_epochs: int = 1,
        batch_size: int = 256,
        jsonl: str | os.PathLike | None = None,
    ):
        super().__init__()
        if not tasks or every_epochs < 1:
            raise ValueError(f"Expected tasks and every_epochs >= 1. Received: {len(tasks)} tasks, {every_epochs}.")
        self.tasks = list(tasks)
        self.every_epochs, self.batch_size = every_epochs, batch_size
        self.jsonl = None if jsonl is None else os.fspath(jsonl)
        self._embedder: Embedder | None = None

    def on_train_begin(self, logs=None):
        # Use one embedder for all epochs, so that its graphs are traced once.
        self._embedder = Embedder(self.model, self.batch_size)

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.every_epochs and epoch + 1 != self.params["epochs"]:
            return
        figures = {}
        for result in Evaluation(self._embedder).run(self.tasks):
            figures |= result.logs()
        if logs is not None:
            logs.update(figures)
        if self.jsonl is not None and _is_chief(self._embedder.strategy):
            step = int(keras.ops.convert_to_numpy(self.model.optimizer.iterations))  # it may be a MirroredVariable
            line = {"epoch": epoch + 1, "step": step, **figures}
            with tf.io.gfile.GFile(self.jsonl, "a") as file:
                file.write(json.dumps(line) + "\n")


def _is_chief(strategy: tf.distribute.Strategy) -> bool:
    return strategy.extended.should_save_summary
