"""Exact resume as a Keras callback: save every so many steps and at a signal, go on from the last good checkpoint."""

import math
import os
import tempfile
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import keras
import numpy as np
import tensorflow as tf

from siglip_tf.training.interruption import Interruption
from siglip_tf.training.random_state import random_state, set_random_state
from siglip_tf.training.state import TrainingState, data_fault
from siglip_tf.training.store import CheckpointStore, marker_fault
from siglip_tf.training.workers import agree, leave_together, left_files, share, this_worker

_STOP_FILE = "stop_after_step"


class Stateful(Protocol):
    """Anything beside the model whose state belongs into the checkpoint, such as a reader's count of bad records."""

    def get_state(self) -> Any:
        """JSON values that stand for the state."""

    def set_state(self, state: Any) -> None:
        """Puts back what `get_state` gave."""


class PositionedData(Protocol):
    """Training data that knows where it stands, such as `siglip_tf.data.TrainingData`."""

    def dataset(self, context: tf.distribute.InputContext | None = None) -> tf.data.Dataset:
        """Endless batches from the restored position on; with a context, one worker's for each of its replicas."""

    def state(self, step: int) -> dict[str, Any]:
        """JSON values that stand for the position once `step` global batches of the run are consumed."""

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on at a position."""


class Resume(keras.callbacks.Callback):
    """Saves all of training in one atomic checkpoint, and restores it so that the run goes on bit by bit.

    A checkpoint holds weights, optimizer, metrics and seed generators (`tf.train.Checkpoint`), the step, the batches
    consumed, the data's position, Python's and NumPy's random states, and the state of every object in `states`; the
    last three of each worker. SIGTERM and Ctrl-C save after the running step and exit; SIGKILL loses at most `every`
    steps. Under several workers all take part, the chief writes, and the directory must be shared.

        resume = Resume("runs/first", every=1000)
        step = resume.restore(model)                       # 0 in a new directory
        model.fit(batches_from(resume.batches), steps_per_epoch=total - step, callbacks=[resume])

    Args:
        directory: the run's folder, local or `gs://`; checkpoints go to `directory/checkpoints`.
        every: steps between checkpoints.
        keep_last: how many of the newest stay.
        keep_every: checkpoints whose step is a multiple of this stay for ever.
        resume_from: another run's folder or one checkpoint's, to go on from when `directory` has none.
        initial_weights: a Keras weights file (`.weights.h5`) or a function of the model, used when there is no
            checkpoint at all.
        data: the training data, if it is a `PositionedData`; else start it at `resume.batches` yourself.
        states: further objects with `get_state` and `set_state`, by name.
        trackables: further objects for `tf.train.Checkpoint`, by name, such as a `tf.random.Generator`.
        asynchronous: copy the variables at once and write them in a thread (costs one more copy in memory).
        say: where messages go.

    Raises:
        ValueError: for numbers below 1, a missing `resume_from`, or a checkpoint of another model.
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
        self._stop_file = tf.io.gfile.join(self.directory, _STOP_FILE)
        self._resume_from = resume_from
        self._initial_weights = initial_weights
        self._trackables = trackables
        self._asynchronous = asynchronous
        self._interruption = Interruption()
        self._state: TrainingState | None = None
        self._checkpoint: tf.train.Checkpoint | None = None
        self._random: dict[str, Any] | None = None
        self._saved_step: int | None = None
        self._last_batch = -1
        self._mid_epoch = False

    def restore(self, model: keras.Model, pass_over: bool = False) -> int:
        """Brings the model to where training stands, and says how.

        The order: the newest good checkpoint of `directory`, then `resume_from`, then `initial_weights`, then the
        model as it is.

        Args:
            model: built and compiled.
            pass_over: whether the data stays where it stands now, so that the batches since the checkpoint, among
                which bad ones are, are not trained on again.

        Returns:
            The number of steps already done; `self.batches` is the number of batches already consumed.
        """
        self.finish_writing()
        passed = self.batches, self.data.state(self.batches) if pass_over and self.data else None
        self._state = TrainingState(model, self._trackables)
        worker = this_worker(model.distribute_strategy)
        if worker.is_chief:
            tf.io.gfile.makedirs(self.directory)
            self.store.sweep()
            for stale in (self._stop_file, *left_files(model.distribute_strategy, self.directory).values()):
                if tf.io.gfile.exists(stale):
                    tf.io.gfile.remove(stale)
        self.step = self.batches = 0
        self._random, self._saved_step, self._last_batch = None, None, -1
        found = self.store.newest(self.say, data_fault)
        agree(model.distribute_strategy, -1 if found is None else found, f"the newest checkpoint in {self.directory}")
        if found is not None:
            self._read(self.store.path(found))
            self._saved_step = self.step
        elif self._resume_from is not None:
            self._read(_checkpoint_in(self._resume_from, self.say))
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
        self._mid_epoch = self.step > 0
        return self.step

    def _read(self, path: str) -> None:
        content = self._state.read(path)
        self.step, self.batches, workers = content["step"], content["batches"], content["workers"]
        own = workers[min(this_worker(self._state.model.distribute_strategy).index, len(workers) - 1)]
        self._random = own["random"]
        missing = sorted(set(self.states) - set(own["states"]))
        if missing:
            raise ValueError(f"The checkpoint {path} holds no state for {missing}. It has: {sorted(own['states'])}")
        for name, item in self.states.items():
            item.set_state(own["states"][name])
        if self.data is not None:
            if own["data"] is None:
                raise ValueError(f"The checkpoint {path} holds no position of the data: its run had Resume(data=None).")
            self.data.restore(_joined([worker["data"] for worker in workers]))
        self.say(f"Resumed at step {self.step:,} from {path}.")

    def save(
        self,
        logs: Mapping[str, Any] | None = None,
        store: CheckpointStore | None = None,
        history: list[dict[str, float]] | None = None,
    ) -> str:
        """Writes a checkpoint of the present step now, and returns its folder.

        Args:
            logs: the step's metrics, kept as JSON.
            store: another store than the run's, for a post-mortem.
            history: the metrics of the steps before, for a post-mortem.
        """
        store = store or self.store
        strategy = self._state.model.distribute_strategy
        own = {
            "data": None if self.data is None else self.data.state(self.batches),
            "states": {name: item.get_state() for name, item in self.states.items()},
            "random": random_state(),
        }
        content = {
            "step": self.step,
            "batches": self.batches,
            "workers": share(strategy, own),
            "metrics": _json_safe(plain(logs)),
            "history": [_json_safe(step) for step in history or ()],
        }
        if store is self.store:
            self._saved_step = self.step  # of every worker, as all of them take part in the next save or none
        if not this_worker(strategy).is_chief:
            # Variables that are summed on reading need every worker; what this one writes is not kept.
            with tempfile.TemporaryDirectory() as aside:
                self._state.write(aside, content)
            return store.path(self.step)
        self.finish_writing()
        step, path = self.step, store.begin(self.step)
        if self._asynchronous and store is self.store:
            self._checkpoint = self._checkpoint or self._state.checkpoint()
            self._state.write(path, content, lambda _: store.commit(step), self._checkpoint)
        else:
            self._state.write(path, content)
            store.commit(step)
        return store.path(step)

    def finish_writing(self) -> None:
        """Waits for the thread that writes a checkpoint, and raises what went wrong in it."""
        if self._checkpoint is not None:
            self._checkpoint.sync()

    def on_train_begin(self, logs=None):
        known = self._state is not None and self._state.model is self.model
        if not known and self.restore(self.model):
            raise ValueError(
                f"{self.directory} holds a checkpoint at step {self.step:,}. Call step = resume.restore(model) before "
                "fit, start the data at batch resume.batches and fit for the steps that are left."
            )
        if self._random is not None:
            set_random_state(self._random)  # here, since building a data set may draw numbers too
            self._random = None
        self._interruption.install()

    def on_epoch_begin(self, epoch, logs=None):
        self._last_batch = -1
        if self._mid_epoch:
            steps = self.params.get("steps")
            if self.params.get("epochs", 1) == 1 or not steps or self.step % steps:
                self._state.restore_metrics()
            self._mid_epoch = False

    def on_train_batch_end(self, batch, logs=None):
        done = batch - self._last_batch
        self._last_batch = batch
        before = self.step
        self.step += done
        self.batches += done
        stop = self._stop_requested()
        if stop or self.step // self.every > before // self.every:
            self._save_if_finite(logs)
        if stop:
            self._leave()
            self.say(f"Stopped by a signal after step {self.step:,}, saved in {self.directory}.")
            number = self._interruption.received or 15
            self._interruption.remove()
            raise SystemExit(128 + number)

    def on_train_end(self, logs=None):
        if self._saved_step != self.step:
            self._save_if_finite(logs)
        self._leave()
        self.close()

    def _leave(self) -> None:
        self.finish_writing()
        leave_together(self.model.distribute_strategy, self.directory)

    def close(self) -> None:
        """Puts back the signal handlers; `fit` does it unless it ends by an exception."""
        self._interruption.remove()

    def _save_if_finite(self, logs: Mapping[str, Any] | None) -> None:
        bad = [name for name, value in plain(logs).items() if not math.isfinite(value)]
        if bad:
            self.say(f"No checkpoint at step {self.step:,}: {', '.join(bad)} not finite.")
            return
        self.save(logs)

    def _stop_requested(self) -> bool:
        """Whether to stop after this step; several workers stop after the same one."""
        worker = this_worker(self.model.distribute_strategy)
        if worker.count == 1:
            return self._interruption.received is not None
        # A worker that got a signal names the next step before it takes part in it. No other worker can end that step
        # without it, so all of them have seen the name by then.
        if tf.io.gfile.exists(self._stop_file):
            with tf.io.gfile.GFile(self._stop_file, "r") as file:
                text = file.read()
            return text.strip().isdigit() and self.step >= int(text)
        if self._interruption.received is not None:
            _write_aside(self._stop_file, str(self.step + 1))
        return False


def plain(logs: Mapping[str, Any] | None) -> dict[str, float]:
    """Scalar metrics as Python floats; others are left out."""
    arrays = {name: np.asarray(value) for name, value in (logs or {}).items()}
    return {name: float(array.reshape(())) for name, array in arrays.items() if array.size == 1}


def _json_safe(metrics: Mapping[str, float]) -> dict[str, float | str]:
    """JSON has no NaN: what is not finite becomes its text."""
    return {name: value if math.isfinite(value) else str(value) for name, value in metrics.items()}


def _checkpoint_in(path: str, say: Callable[[str], None]) -> str:
    """The folder of a checkpoint given as itself, a run's folder, or a folder of checkpoints."""
    path = str(path).rstrip("/")
    if not tf.io.gfile.isdir(path):
        raise ValueError(f"Expected resume_from to be a checkpoint's or a run's folder. {path!r} is not there.")
    if tf.io.gfile.exists(tf.io.gfile.join(path, "state.json")):
        fault = marker_fault(path) or data_fault(path)
        if fault:
            raise ValueError(f"The checkpoint {path} cannot be used: {fault}.")
        return path
    for folder in (tf.io.gfile.join(path, "checkpoints"), path):
        store = CheckpointStore(folder)
        step = store.newest(say, data_fault)
        if step is not None:
            return store.path(step)
    raise ValueError(f"There is no good checkpoint in resume_from={path!r}.")


def _joined(positions: list[dict[str, Any]]) -> dict[str, Any]:
    """One position from every worker's."""
    if len(positions) == 1:
        return positions[0]
    from siglip_tf.data.order.position import merge_states

    return merge_states(positions)


def _write_aside(path: str, text: str) -> None:
    aside = f"{path}.{os.getpid()}"
    with tf.io.gfile.GFile(aside, "w") as file:
        file.write(text)
    tf.io.gfile.rename(aside, path, overwrite=True)
