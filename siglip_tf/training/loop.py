"""Runs a whole training in one call: restores, fits the steps that are left, evaluates, saves, watches, and reports."""

import socket
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from siglip_tf.data.order.bad_records import TooManyBadRecordsError
from siglip_tf.data.service.identity import check_workers, identity
from siglip_tf.training.diagnostics import Diagnostics
from siglip_tf.training.evaluation import PeriodicEvaluation
from siglip_tf.training.progress import ProgressLine, Speed
from siglip_tf.training.resume import Resume
from siglip_tf.training.stateful import PositionedData
from siglip_tf.training.watch import UnstableTrainingError, Watch
from siglip_tf.training.workers import share, this_worker


class _Ticker(keras.callbacks.Callback):
    """Tells `Speed` that a step is done, before the callbacks that show the speed."""

    def __init__(self, speed: Speed, resume: Resume):
        super().__init__()
        self.speed = speed
        self.resume = resume

    def on_train_batch_end(self, batch, logs=None):
        self.speed.tick(self.resume.count(batch))


def train(
    model: keras.Model,
    data: Callable[[int], tf.data.Dataset] | PositionedData,
    *,
    steps: int,
    global_batch_size: int,
    resume: Resume,
    watch: Watch | None = None,
    evaluation: PeriodicEvaluation | None = None,
    log_every: int = 50,
    tensorboard: bool = True,
    bound: float | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    max_skips: int = 10,
    progress: bool = True,
) -> int:
    """Trains a compiled model up to a number of steps. It begins at the step that `resume` restores.

    Args:
        model: a built and compiled model.
        data: a `PositionedData` (`siglip_tf.data.TrainingData`), or a function that takes a number of global batches
            and returns an endless data set of the global batches after those.
        steps: number of steps of the whole run, including those of earlier processes.
        global_batch_size: number of pairs per step over all replicas.
        resume: the `Resume` callback that saves and restores. It also holds the run's folder.
        watch: a `Watch` that says what to do about NaN and spikes. By default, NaN stops the run.
        evaluation: tasks to evaluate during training. It keeps the best checkpoint and may stop the run early.
        log_every: number of steps between lines of `metrics.jsonl`.
        tensorboard: whether to write TensorBoard events too.
        bound: the highest number of images per second that the hardware allows, to report the fraction reached.
        callbacks: further Keras callbacks. They see the run as one epoch, and the metrics of an evaluation in `logs`.
        max_skips: how many faults may be skipped before one is raised.
        progress: whether to show the progress line.

    Returns:
        The step reached: `steps`, or fewer if a callback stopped training (`evaluation.stopped`).

    Raises:
        ValueError: if a setting is invalid.
        TooManyBadRecordsError: if more records are broken than the data's limit allows.
        UnstableTrainingError: at NaN or a spike, unless `watch` skips it.
        SystemExit: after a signal, once the state is saved.
    """
    _check_numbers(steps=steps, global_batch_size=global_batch_size, log_every=log_every)
    _check_numbers(0, max_skips=max_skips)
    _check_execution(model, steps, resume.every)
    strategy = model.distribute_strategy
    is_chief = this_worker(strategy).is_chief
    if watch is None:
        # Reading the metrics waits for the device and leaves a TPU idle, so there it happens as often as the log.
        watch = Watch(resume, every=log_every if isinstance(strategy, tf.distribute.TPUStrategy) else 1)
    resume.data = None if callable(data) else data
    evaluations = [] if evaluation is None else [evaluation]
    for each in evaluations:
        each.prepare(model, resume, steps)
    skips = 0
    try:
        start = resume.restore(model)
        _check_workers(strategy, data)
        for each in evaluations:
            each.finish(model, start)
        while start < steps and not any(each.stopped for each in evaluations):
            speed = Speed(global_batch_size, strategy.num_replicas_in_sync, bound)
            for each in evaluations:
                each.exclude_from(speed)
            diagnostics = Diagnostics(
                resume.directory,
                speed,
                lambda: resume.step,
                every=log_every,
                total_steps=steps,
                tensorboard=tensorboard,
                evaluation=evaluation,
            )
            summary = None if evaluation is None else evaluation.summary
            line = ProgressLine(steps, speed, lambda: resume.step, evaluation=summary)
            shown = [*([line] if progress else []), diagnostics] if is_chief else []
            dataset = _dataset(data, resume, strategy)
            if start == 0 and watch.action == "skip" and not resume.store.steps():
                resume.save()  # a skip at the first steps needs a checkpoint to go back to
            try:
                model.fit(
                    dataset,
                    epochs=1,
                    steps_per_epoch=steps - start,
                    verbose=0,
                    shuffle=False,
                    callbacks=[watch, _Ticker(speed, resume), *evaluations, *shown, *callbacks, resume],
                )
                break
            except UnstableTrainingError as fault:
                skips += 1
                if not fault.may_skip or skips > max_skips:
                    raise
                start = resume.restore(model, pass_over=True)
                resume.say(f"{fault}. Went back to step {start:,} and skipped the batches up to {fault.batches:,}.")
            except tf.errors.OpError as error:
                raise TooManyBadRecordsError.within(error) or error from None
            finally:
                diagnostics.close()
        for each in evaluations:
            each.clean()
    finally:
        resume.close()
    return resume.step


def _check_workers(strategy: tf.distribute.Strategy, data: Any) -> None:
    """Refuses workers whose batches belong to different runs, before they make the first batch."""
    known = hasattr(data, "mixture") or hasattr(data, "stored")  # other data does not describe its batches
    if not known or this_worker(strategy).count == 1:
        return
    resize = getattr(data, "resize_kernel", None)
    mine = {"host": socket.gethostname(), "identity": identity(data), "resize": resize}
    check_workers(share(strategy, mine))


def _check_numbers(least: int = 1, /, **numbers: int) -> None:
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"Expected {name} to be a whole number >= {least}. Received: {name}={value!r}")


def _check_execution(model: keras.Model, steps: int, every: int) -> None:
    execution = model.steps_per_execution
    if not isinstance(execution, int) or execution < 1:
        raise ValueError(
            "Expected the model's steps_per_execution to be a whole number >= 1, because checkpoints, logs and signals "
            f"count steps between two executions. Received: steps_per_execution={execution!r}"
        )
    if steps % execution or every % execution:
        raise ValueError(
            f"Expected steps and resume.every to be multiples of the model's steps_per_execution={execution}. "
            f"Received: steps={steps}, resume.every={every}"
        )


def _dataset(data, resume: Resume, strategy: tf.distribute.Strategy):
    if callable(data):
        return data(resume.batches)
    if strategy.num_replicas_in_sync > 1:
        return strategy.distribute_datasets_from_function(lambda context: _endless(data.dataset(context)))
    return data.dataset()


def _endless(dataset: tf.data.Dataset) -> tf.data.Dataset:
    # Without this, workers expect a last, smaller batch, and the batches lose their static shape.
    return dataset.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))
