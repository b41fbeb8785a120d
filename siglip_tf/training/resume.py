"""Exact resume as a Keras callback: saves every few steps and at a signal, and continues from the last checkpoint."""

import contextlib
import errno
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import tensorflow as tf

from siglip_tf.signals import Interruption
from siglip_tf.storage import StorageError, explained, free_bytes, remove
from siglip_tf.training.loss_scaling import PassedOverSteps
from siglip_tf.training.metric_values import json_safe, scalars
from siglip_tf.training.owner import Owner
from siglip_tf.training.random_state import (
    process_random_state,
    random_state_of_new_worker,
    set_process_random_state,
)
from siglip_tf.training.state import TrainingState, data_fault
from siglip_tf.training.stateful import PositionedData, Stateful, is_optional
from siglip_tf.training.store import CheckpointStore, find_checkpoint
from siglip_tf.training.workers import StopQuestion, agree, leave_together, left_files, share, this_worker

_GRACE = 10.0  # seconds that a step may always take to end after a signal
_WRITING_GRACE = 300.0  # seconds that writing a checkpoint may take after a signal


class Resume(keras.callbacks.Callback):
    """Saves the whole state of training in one atomic checkpoint, and restores it so that the run continues bit by bit.

    A checkpoint holds the weights, the optimizer, the metrics, and the seed generators (`tf.train.Checkpoint`), the
    step, the number of batches consumed, the data's position, Python's and NumPy's random states, and the state of
    every object in `states`. The last three are kept for each worker.

    After SIGTERM or Ctrl-C, training saves at the end of the current step and exits. Before the first step, or if no
    step ends in time, it exits without saving. SIGKILL loses at most `every` steps. With several workers, all take
    part, the chief writes, and the directory must be shared. Only one run at a time may use the directory.

        resume = Resume("runs/first", every=1000)
        step = resume.restore(model)                       # 0 in a new directory
        model.fit(batches_from(resume.batches), steps_per_epoch=total - step, callbacks=[resume])

    Put this callback last, so that a checkpoint holds what the other callbacks did at its step.

    Args:
        directory: the run's folder, local or `gs://`. Checkpoints go to `directory/checkpoints`.
        every: number of steps between checkpoints.
        keep_last: how many of the newest checkpoints to keep.
        keep_every: a checkpoint whose step is a multiple of this number is never removed.
        resume_from: another run's folder, or the folder of one checkpoint. It is used if `directory` has no checkpoint.
        initial_weights: a Keras weights file (`.weights.h5`) or a function of the model. It is used if there is no
            checkpoint at all.
        data: the training data, if it is a `PositionedData`. Start other data at batch `resume.batches` yourself.
        states: further objects with `get_state` and `set_state`, by name.
        trackables: further objects for `tf.train.Checkpoint`, by name, such as a `tf.random.Generator`.
        asynchronous: whether to copy the variables and write them in a thread. This needs memory for one more copy.
        say: a function that receives messages.

    Attributes:
        step: the number of steps done.
        batches: the number of batches consumed. It is larger than `step` if batches were skipped.

    Raises:
        ValueError: if a number is below 1, `resume_from` does not exist, or a checkpoint is of another model.
        StorageError: if the disk is full or the folder cannot be written to. It names the last good checkpoint.
        RunFolderInUseError: if another process trains in the directory.
    """

    def __init__(
        self,
        directory: str,
        every: int = 1000,
        *,
        keep_last: int = 3,
        keep_every: int | None = None,
        resume_from: str | None = None,
        initial_weights: str | Callable[[keras.Model], None] | None = None,
        data: PositionedData | None = None,
        states: Mapping[str, Stateful] | None = None,
        trackables: Mapping[str, Any] | None = None,
        asynchronous: bool = False,
        say: Callable[[str], None] = print,
    ):
        super().__init__()
        if every < 1:
            raise ValueError(f"Expected every >= 1 step. Received: every={every}")
        self.directory = str(directory)
        self.every = every
        self.step = 0
        self.batches = 0
        self.store = CheckpointStore(tf.io.gfile.join(self.directory, "checkpoints"), keep_last, keep_every)
        self.data = data
        self.states = dict(states or {})
        self.say = say
        self.passed_over: PassedOverSteps | None = None
        self._resume_from = resume_from
        self._initial_weights = initial_weights
        self._trackables = trackables
        self._asynchronous = asynchronous
        self._interruption = Interruption(grace=self._grace, lost=self._lost)
        self._owner = Owner(self.directory, say)
        self._question: StopQuestion | None = None
        self._state: TrainingState | None = None
        self._checkpoint: tf.train.Checkpoint | None = None
        self._pending: int | None = None  # the step whose checkpoint a thread is writing
        self._random: dict[str, Any] | None = None
        self._saved_step: int | None = None
        self._last_batch = -1
        self._looked_at = 0
        self._mid_epoch = False
        self._has_stepped = False
        self._is_writing = False
        self._step_began = time.monotonic()
        self._longest_step = 0.0

    @property
    def is_interrupted(self) -> bool:
        """Whether a signal asks this process to stop after the current step."""
        return self._interruption.received is not None

    def restore(self, model: keras.Model, pass_over: bool = False) -> int:
        """Restores the state of training, and reports where it came from.

        The first of these that exists is used: the newest good checkpoint of `directory`, `resume_from`,
        `initial_weights`, the model as it is.

        Args:
            model: a built and compiled model.
            pass_over: whether the data stays at its current position. Then the batches since the checkpoint, some of
                which are bad, are not used again.

        Returns:
            The number of steps already done. `self.batches` is the number of batches already consumed.
        """
        self.finish_writing()
        passed = self.batches, self.data.state(self.batches) if pass_over and self.data else None
        self._state = TrainingState(model, self._trackables)
        strategy = model.distribute_strategy
        self._enter(strategy)
        self._question = StopQuestion(strategy)
        self.step = self.batches = 0
        self._random, self._saved_step, self._last_batch = None, None, -1
        found = self.store.newest(self.say, data_fault)
        agree(strategy, -1 if found is None else found, f"the newest checkpoint in {self.directory}")
        if found is not None:
            self._read(self.store.path(found))
            self._saved_step = self.step
        elif self._resume_from is not None:
            self._read(find_checkpoint(self._resume_from, self.say, data_fault))
        elif self._initial_weights is not None:
            if callable(self._initial_weights):
                self._initial_weights(model)
            else:
                model.load_weights(self._initial_weights)
            self.say(f"Started from the initial weights {self._initial_weights}.")
        if pass_over:
            self.batches = passed[0]
            if self.data:
                self.data.restore(passed[1])
        self.passed_over = PassedOverSteps(model)
        self._looked_at = self.step
        self._mid_epoch = self.step > 0
        return self.step

    def _enter(self, strategy: tf.distribute.Strategy) -> None:
        """Claims the folder for this run, and removes what a killed run left half written."""
        fault: Exception | None = None
        if this_worker(strategy).is_chief:
            try:
                with explained(self.directory):
                    tf.io.gfile.makedirs(self.directory)
                    self._owner.claim()
                    self.store.sweep()
                    for stale in left_files(strategy, self.directory).values():
                        remove(stale)
            except Exception as error:  # raised below, after the other workers know, since they wait for this one
                fault = error
        chief_fault = share(strategy, None if fault is None else str(fault))[0]
        if fault is not None:
            raise fault
        if chief_fault is not None:
            raise RuntimeError(f"The chief could not start: {chief_fault}")

    def _read(self, path: str) -> None:
        content = self._state.read(path)
        self.step, self.batches, workers = content["step"], content["batches"], content["workers"]
        worker = this_worker(self._state.model.distribute_strategy)
        is_new = worker.index >= len(workers)
        own = workers[0 if is_new else worker.index]
        self._random = random_state_of_new_worker(own["random"], worker.index) if is_new else own["random"]
        self._read_states(path, own["states"], len(workers), worker.count)
        if self.data is not None:
            if own["data"] is None:
                raise ValueError(f"The checkpoint {path} holds no position of the data: its run had Resume(data=None).")
            self.data.restore(_joined([worker["data"] for worker in workers]))
        self.say(f"Resumed at step {self.step:,} from {path}.")
        if len(workers) != worker.count:
            self.say(
                f"The checkpoint is of {len(workers)} workers and this run has {worker.count}, so it does not end with "
                "the same bits as an uninterrupted run."
            )

    def _read_states(self, path: str, saved: Mapping[str, Any], workers: int, count: int) -> None:
        of_workers = sorted(name for name, item in self.states.items() if not is_optional(item))
        if missing := sorted(set(of_workers) - set(saved)):
            raise ValueError(f"The checkpoint {path} holds no state for {missing}. It has: {sorted(saved)}")
        if of_workers and workers != count:
            raise ValueError(
                f"Expected {workers} workers, because the checkpoint {path} holds a state of {of_workers} for each of "
                f"that many. Received: {count} workers. Run with {workers}, or start a new directory."
            )
        for name, item in self.states.items():
            item.set_state(saved.get(name))

    def save(
        self,
        logs: Mapping[str, Any] | None = None,
        store: CheckpointStore | None = None,
        history: list[dict[str, float]] | None = None,
    ) -> str:
        """Writes a checkpoint of the current step now, and returns its folder.

        Args:
            logs: the step's metrics, saved as JSON.
            store: a store to use instead of the run's own, for a post-mortem.
            history: the metrics of earlier steps, for a post-mortem.
        """
        self._is_writing = True
        try:
            return self._save(logs, store or self.store, history)
        finally:
            self._is_writing = False

    def _save(
        self, logs: Mapping[str, Any] | None, store: CheckpointStore, history: list[dict[str, float]] | None
    ) -> str:
        strategy = self._state.model.distribute_strategy
        own = {
            "data": None if self.data is None else self.data.state(self.batches),
            "states": {name: item.get_state() for name, item in self.states.items()},
            "random": process_random_state(),
        }
        content = {
            "step": self.step,
            "batches": self.batches,
            "workers": share(strategy, own),
            "metrics": json_safe(scalars(logs)),
            "history": [json_safe(step) for step in history or ()],
        }
        before = self._saved_step
        if store is self.store:
            self._saved_step = self.step  # every worker sets this, because all take part in the next save or none does
        if not this_worker(strategy).is_chief:
            # A variable that is summed when it is read needs every worker. The files of this worker are not kept.
            with tempfile.TemporaryDirectory() as aside:
                self._state.write(aside, content)
            return store.path(self.step)
        self.finish_writing()
        step, path = self.step, store.path(self.step)
        with self._explained(path, before, store):
            folder = store.begin(step, self._state.size, _survivor(before))
            if self._asynchronous and store is self.store:
                self._checkpoint = self._checkpoint or self._state.checkpoint()
                self._pending = step
                self._state.write(folder, content, lambda _: self._commit_pending(step), self._checkpoint)
            else:
                self._state.write(folder, content)
                store.commit(step)
        return path

    def finish_writing(self) -> None:
        """Waits for the thread that writes a checkpoint, and raises an error if it failed.

        Raises:
            StorageError: if the checkpoint could not be written.
        """
        if self._checkpoint is None:
            return
        was_writing, self._is_writing = self._is_writing, True
        try:
            self._checkpoint.sync()
        finally:
            self._is_writing = was_writing
        if self._pending is None:
            return
        # TensorFlow's `sync` does not raise an error of its thread; it only logs the error.
        step, self._pending = self._pending, None
        path, free = self.store.path(step), free_bytes(self.store.directory)
        good = self._saved_step = self.store.newest(lambda text: None)
        self.store.discard()
        raise StorageError(
            errno.ENOSPC,
            f"Cannot write {path}: the thread that writes checkpoints failed, most likely because the disk is full. "
            f"{self._state.size:,} bytes are needed; {'unknown' if free is None else f'{free:,}'} bytes are free. "
            f"Free some space or name another folder. {_survivor(good)}",
        )

    def _commit_pending(self, step: int) -> None:
        self.store.commit(step)
        self._pending = None

    @contextlib.contextmanager
    def _explained(self, path: str, good: int | None, store: CheckpointStore) -> Iterator[None]:
        try:
            with explained(path, self._state.size, _survivor(good)):
                yield
        except BaseException:  # any exception, even an exit, leaves a half-written checkpoint; it is raised again
            self._saved_step = good
            store.discard()
            raise

    def count(self, batch: int) -> int:
        """Counts the steps up to a batch of this epoch, and returns the run's step. Any callback may call it."""
        done = batch - self._last_batch
        if done <= 0:
            return self.step
        self._last_batch = batch
        self.step += done
        self.batches += done
        self.passed_over.count(done)
        self._has_stepped = True
        now = time.monotonic()
        self._longest_step = max(self._longest_step / 2, now - self._step_began)
        self._step_began = now
        return self.step

    def on_train_begin(self, logs=None):
        known = self._state is not None and self._state.model is self.model
        if not known and self.restore(self.model):
            raise ValueError(
                f"{self.directory} holds a checkpoint at step {self.step:,}. Call step = resume.restore(model) before "
                "fit, start the data at batch resume.batches and fit for the steps that are left."
            )
        if self._random is not None:
            set_process_random_state(self._random)  # set here, because building a data set may draw numbers too
            self._random = None
        self._has_stepped = False
        self._interruption.install()

    def on_epoch_begin(self, epoch, logs=None):
        self._last_batch = -1
        if self._mid_epoch:
            steps = self.params.get("steps")
            if self.params.get("epochs", 1) == 1 or not steps or self.step % steps:
                self._state.restore_metrics()
            self._mid_epoch = False

    def on_train_batch_begin(self, batch, logs=None):
        self._step_began = time.monotonic()

    def on_train_batch_end(self, batch, logs=None):
        step, before = self.count(batch), self._looked_at
        self._looked_at = step
        signal = self._question(step, self._interruption.received)
        if signal is not None or step // self.every > before // self.every:
            self._save_if_finite(logs)
        if signal is not None:
            self._leave()
            self.say(f"Stopped by a signal after step {step:,}, saved in {self.directory}.")
            self.close()
            raise SystemExit(128 + signal)

    def on_train_end(self, logs=None):
        if self._saved_step != self.step:
            self._save_if_finite(logs)
        self._leave()
        self.close()

    def _leave(self) -> None:
        self.finish_writing()
        leave_together(self.model.distribute_strategy, self.directory)

    def close(self) -> None:
        """Restores the signal handlers and releases the folder. `fit` does this unless it raises an exception."""
        self._interruption.remove()
        self._owner.release()

    def _save_if_finite(self, logs: Mapping[str, Any] | None) -> None:
        metrics = scalars(logs)
        bad = [name for name in self.passed_over.relevant(metrics) if not math.isfinite(metrics[name])]
        if bad:
            self.say(f"No checkpoint at step {self.step:,}: {', '.join(bad)} not finite.")
            return
        self.save(logs)

    def _grace(self) -> float:
        """Returns how many seconds the current step may take to end after a signal."""
        if self._is_writing:
            return _WRITING_GRACE
        return max(_GRACE, 2 * self._longest_step) if self._has_stepped else 0.0

    def _lost(self) -> str:
        """Returns a message that says what remains when the process ends in the middle of a step."""
        step = self.step if self._saved_step is None else self._saved_step
        kept = (
            f"The checkpoint of step {step:,} is whole" if self._saved_step is not None else "No checkpoint was written"
        )
        what = (
            "the first step"
            if not self._has_stepped
            else "a checkpoint"
            if self._is_writing
            else f"step {self.step + 1:,}"
        )
        return f"Training waited for {what}. {kept}; the same command continues from there."


def _survivor(step: int | None) -> str:
    return "No checkpoint was written before." if step is None else f"The last good checkpoint is step {step:,}."


def _joined(positions: list[dict[str, Any]]) -> dict[str, Any]:
    """Joins the positions of all workers into one."""
    if len(positions) == 1:
        return positions[0]
    from siglip_tf.data.order.position import merge_states

    return merge_states(positions)
