"""A whole run in one call: restore, fit for the steps that are left, save, watch, report."""

from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from siglip_tf.data.order.bad_records import TooManyBadRecordsError
from siglip_tf.training.diagnostics import Diagnostics
from siglip_tf.training.progress import Progress, Speed
from siglip_tf.training.resume import PositionedData, Resume
from siglip_tf.training.watch import UnstableTrainingError, Watch
from siglip_tf.training.workers import this_worker


class _Ticker(keras.callbacks.Callback):
    """Tells the speed that a step is done, before the callbacks that show it."""

    def __init__(self, speed: Speed, resume: Resume):
        super().__init__()
        self.speed = speed
        self.resume = resume

    def on_train_batch_end(self, batch, logs=None):
        self.speed.tick(self.resume.step)


def train(
    model: keras.Model,
    data: Callable[[int], tf.data.Dataset] | PositionedData,
    *,
    steps: int,
    global_batch_size: int,
    resume: Resume,
    watch: Watch | None = None,
    log_every: int = 50,
    tensorboard: bool = True,
    bound: float | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    max_skips: int = 10,
    progress: bool = True,
) -> int:
    """Trains a compiled model up to a number of steps, from wherever `resume` finds it.

    Args:
        model: built and compiled.
        data: a `PositionedData` (`siglip_tf.data.TrainingData`), or a function that returns an endless data set of
            global batches that starts after so many of them.
        steps: steps of the whole run, those of earlier processes included.
        global_batch_size: pairs a step over all replicas.
        resume: saves and restores, and names the run's folder.
        watch: what to do about NaN and spikes; by default NaN stops the run.
        log_every: steps between lines of `metrics.jsonl`.
        tensorboard: whether to write TensorBoard events too.
        bound: images a second that the hardware allows at best, to show the share reached.
        callbacks: further Keras callbacks; they see the run as one epoch.
        max_skips: faults passed over before one is raised after all.
        progress: whether to show the progress line.

    Returns:
        The step reached: `steps`, or fewer if a callback stopped training.

    Raises:
        TooManyBadRecordsError: more of the data is broken than its limit allows.
        UnstableTrainingError: at NaN or a spike, if it is not to be passed over.
        SystemExit: after a signal, when the state is saved.
    """
    if steps < 1:
        raise ValueError(f"Expected steps >= 1. Received: steps={steps}")
    execution = model.steps_per_execution
    if steps % execution or resume.every % execution:
        raise ValueError(
            f"Expected steps and resume.every to be multiples of the model's steps_per_execution={execution}. "
            f"Received: steps={steps}, resume.every={resume.every}"
        )
    strategy = model.distribute_strategy
    chief = this_worker(strategy).is_chief
    if watch is None:
        # A look waits for the device. A TPU is kept waiting by that, so there the look goes with the log.
        watch = Watch(resume, every=log_every if isinstance(strategy, tf.distribute.TPUStrategy) else 1)
    skips = 0
    resume.data = None if callable(data) else data
    start = resume.restore(model)
    while start < steps:
        speed = Speed(global_batch_size, strategy.num_replicas_in_sync, bound)
        shown = [
            *([Progress(steps, speed, lambda: resume.step)] if chief and progress else []),
            *(
                [
                    Diagnostics(
                        resume.directory,
                        speed,
                        lambda: resume.step,
                        every=log_every,
                        total_steps=steps,
                        tensorboard=tensorboard,
                    )
                ]
                if chief
                else []
            ),
        ]
        dataset = _dataset(data, resume, strategy)
        if start == 0 and watch.action == "skip" and not resume.store.steps():
            resume.save()  # something to go back to
        try:
            model.fit(
                dataset,
                epochs=1,
                steps_per_epoch=steps - start,
                verbose=0,
                shuffle=False,
                callbacks=[watch, resume, _Ticker(speed, resume), *shown, *callbacks],
            )
            break
        except UnstableTrainingError as fault:
            skips += 1
            if not fault.may_skip or skips > max_skips:
                raise
            start = resume.restore(model, pass_over=True)
            resume.say(f"{fault}. Went back to step {start:,} and passed over the batches up to {fault.batches:,}.")
        except tf.errors.OpError as error:
            raise TooManyBadRecordsError.within(error) or error from None
        finally:
            resume.close()
    return resume.step


def _dataset(data, resume: Resume, strategy: tf.distribute.Strategy):
    if callable(data):
        return data(resume.batches)
    if strategy.num_replicas_in_sync > 1:
        return strategy.distribute_datasets_from_function(lambda context: _endless(data.dataset(context)))
    return data.dataset()


def _endless(dataset: tf.data.Dataset) -> tf.data.Dataset:
    # Workers that do not know that their data never ends look out for a last, smaller batch, and lose the static shape.
    return dataset.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))
