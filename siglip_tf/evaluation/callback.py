"""Evaluations during `fit`."""

import json
import os
from collections.abc import Sequence

import keras
import tensorflow as tf

from siglip_tf.evaluation.embed import Embedder
from siglip_tf.evaluation.tasks import Evaluation, Task


class EvaluationCallback(keras.callbacks.Callback):
    """Runs tasks at the end of epochs and puts their figures into `logs`, for every callback after this one.

    Metric names are `<task>/<metric>`, e.g. `zero_shot/birds/top1`, so `ModelCheckpoint(monitor=...)`,
    `EarlyStopping`, TensorBoard and the history see them. Put it before those in the list.

    Args:
        tasks: what to run.
        every_epochs: how often; the last epoch of `fit` is always evaluated.
        batch_size: images or texts per step, over all replicas.
        jsonl: a file to append one line an evaluation to: epoch, step and figures.

    Raises:
        ValueError: no tasks, or `every_epochs` below 1.
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
        # Kept over epochs: its graphs are traced once.
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
            step = int(keras.ops.convert_to_numpy(self.model.optimizer.iterations))  # also of a MirroredVariable
            line = {"epoch": epoch + 1, "step": step, **figures}
            with tf.io.gfile.GFile(self.jsonl, "a") as file:
                file.write(json.dumps(line) + "\n")


def _is_chief(strategy: tf.distribute.Strategy) -> bool:
    return strategy.extended.should_save_summary
