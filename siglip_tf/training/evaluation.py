"""Evaluation during training: metrics every few steps, the best checkpoint, and early stopping."""

import json
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from siglip_tf.evaluation.embed import Embedder
from siglip_tf.evaluation.task_names import parse_task
from siglip_tf.evaluation.tasks import Evaluation, Task
from siglip_tf.storage import is_object_store, new_folder, write_file
from siglip_tf.training.progress import Speed, number_text
from siglip_tf.training.random_state import process_random_state, set_process_random_state
from siglip_tf.training.resume import Resume
from siglip_tf.training.workers import share, this_worker

MODES = ("max", "min")
_SMALLER_IS_BETTER = ("loss", "error", "perplexity")
_WEIGHTS = "model.weights.h5"


class PeriodicEvaluation(keras.callbacks.Callback):
    """Evaluates tasks every few steps of `train`, keeps the best checkpoint, and stops when nothing improves.

    The metrics go to `metrics.jsonl`, TensorBoard, and the progress line. They are measured before the first step, at
    every multiple of `every`, and at the last step. The best checkpoint is `directory/best/step_...`;
    `directory/best/best.json` holds its name and its metric. This callback's state is part of the run's checkpoints,
    and an evaluation does not change the random state of training. Therefore a resumed run ends with the same bits and
    the same best checkpoint. When a task fails, the failure is reported and counted ("evaluation_failures"), and
    training continues.

        evaluation = PeriodicEvaluation(["zero_shot:folder=birds/test"], every=500, best="top1", patience=5)
        train(model, data, steps=10_000, global_batch_size=256, resume=resume, evaluation=evaluation)
        evaluation.best_path                     # None if no evaluation succeeded

    Args:
        tasks: tasks of `siglip_tf.evaluation`, or their text as `tools.evaluate` accepts it.
        every: number of steps between evaluations.
        best: the metric that decides which checkpoint is best: a name from `metric_names` ("zero_shot/birds/top1"), or
            the end of exactly one name ("top1"). The default is the first metric of the first task.
        mode: "max" or "min". The default is "min" for a loss or an error and "max" for any other metric.
        patience: training stops after this many evaluations without a better value. None means that it never stops.
        last_step: the run's last step, which is evaluated too. The default is the `steps` of `train`. Pass it if this
            call of `train` ends before the run does.
        batch_size: number of images or texts per evaluation step, over all replicas.
        say: a function that receives one line of text for each evaluation.

    Attributes:
        figures: the last evaluation's metrics by name.
        figures_step: the step of `figures`, or None.
        best_value: the best value so far, or None.
        best_step: the step of `best_value`, or None.
        failures: the number of failed evaluations.
        stopped: whether training stopped because nothing improved.

    Raises:
        ValueError: if there are no tasks, two tasks share a name, a number is below 1, the mode is unknown, or no task
            reports the metric.
    """

    # A checkpoint of a run that began without evaluation holds no state for this callback.
    optional_state = True

    best_step: int | None
    best_value: float | None
    _referenced: list[int | None]

    def __init__(
        self,
        tasks: Sequence[Task | str],
        every: int,
        *,
        best: str | None = None,
        mode: str | None = None,
        patience: int | None = None,
        last_step: int | None = None,
        batch_size: int = 256,
        say: Callable[[str], None] = print,
    ):
        super().__init__()
        if not tasks:
            raise ValueError("Expected at least one task to evaluate. Received: none.")
        numbers = {"every": every, "patience": patience, "last_step": last_step, "batch_size": batch_size}
        for name, value in numbers.items():
            if value is not None and (isinstance(value, bool) or int(value) != value or value < 1):
                raise ValueError(f"Expected {name} to be a whole number >= 1. Received: {name}={value}")
        if mode is not None and mode not in MODES:
            raise ValueError(f"Expected mode to be one of {MODES} or None. Received: mode={mode!r}")
        self.tasks = [parse_task(task) if isinstance(task, str) else task for task in tasks]
        names = [task.name for task in self.tasks]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"Expected tasks with different names. Received {twice[0]!r} more than once.")
        self.every = int(every)
        self.best = resolve_metric(best, self.metric_names)
        self.mode = mode or ("min" if _is_smaller_better(self.best) else "max")
        self.patience = patience
        self.last_step = last_step
        self.batch_size = batch_size
        self.say = say
        self.figures: dict[str, float] = {}
        self.figures_step: int | None = None
        self._speed: Speed | None = None
        self._resume: Resume | None = None
        self._total = 0
        self._embedder: Embedder | None = None
        self._forget()

    @property
    def metric_names(self) -> list[str]:
        """The names of all metrics that the tasks report."""
        return [f"{task.name}/{metric}" for task in self.tasks for metric in task.metric_names]

    @property
    def best_path(self) -> str | None:
        """The folder of the best checkpoint, or None."""
        return None if self.best_step is None else self._path(self.best_step)

    def prepare(self, model: keras.Model, resume: Resume, total_steps: int) -> None:
        """Registers this callback in a run. `train` calls this before it restores a checkpoint.

        Raises:
            ValueError: if the model cannot be evaluated, for example because it has no preprocessing.
        """
        self._embedder = Embedder(model, self.batch_size)
        self._resume, self._total = resume, self.last_step or total_steps
        self._forget()
        resume.states["evaluation"] = self

    def exclude_from(self, speed: Speed) -> None:
        """Excludes the time of evaluations from the images per second that `speed` reports."""
        self._speed = speed

    def get_state(self) -> dict[str, Any]:
        """Returns this callback's state as JSON values, to be stored in a checkpoint."""
        # The best checkpoint that this training checkpoint refers to must stay. While this one is being written, the
        # best checkpoint of the one before it must stay too.
        self._referenced = [*self._referenced[-1:], self.best_step]
        best = None if self.best_step is None else {"step": self.best_step, "value": self.best_value}
        return {
            "metric": self.best,
            "mode": self.mode,
            "evaluated": self._evaluated,
            "best": best,
            "waited": self._waited,
            "stopped": self.stopped,
            "failures": self.failures,
        }

    def set_state(self, state: dict[str, Any] | None) -> None:
        """Restores what `get_state` returned. None stands for a checkpoint of a run without evaluation."""
        self._forget()
        if state is None:
            return
        self._evaluated, self.failures = state["evaluated"], state["failures"]
        if (state["metric"], state["mode"]) != (self.best, self.mode):
            self.say(f"The best checkpoint is now chosen by {self.best} instead of {state['metric']}: it starts anew.")
            self._evaluated = -1
            return
        self._waited, self.stopped = state["waited"], state["stopped"]
        if state["best"] is not None:
            self.best_step, self.best_value = state["best"]["step"], state["best"]["value"]
            self._referenced = [self.best_step]

    def finish(self, model: keras.Model, step: int) -> None:
        """Completes a run that has done all its steps: a signal may have ended it during its last evaluation."""
        self.set_model(model)
        if self.stopped:
            self.say(f"Training stopped early at step {step:,}. The best checkpoint is {self.best_path}.")
        elif step >= self._total and self.is_due(step):
            self.on_train_begin()
            self._resume.save()

    def on_train_begin(self, logs=None):
        # Remove the best checkpoints of later steps, because those steps are trained again.
        self._prune({step for step in self._steps_there() if step <= self._resume.step})
        if self.best_step is not None and this_worker(self.model.distribute_strategy).is_chief:
            self._write_summary(self.best_step, self.best_value)
        if self.is_due(self._resume.step):
            self._evaluate(self._resume.step)

    def on_train_batch_end(self, batch, logs=None):
        step = self._resume.count(batch)
        if self.is_due(step):
            self._evaluate(step)
            if logs is not None and self.figures_step == step:
                logs.update({name: value for name, value in self.figures.items() if math.isfinite(value)})

    def summary(self) -> str:
        """Returns the last value and the best one for the progress line, or "" before the first evaluation."""
        if self.best not in self.figures:
            return ""
        text = f"{self.best} {number_text(self.figures[self.best])}"
        return text if self.best_step == self.figures_step else f"{text} (best {number_text(self.best_value)})"

    def _forget(self) -> None:
        self._evaluated = -1  # the step of the last evaluation, even a failed one; -1 before the first
        self._waited = 0
        self._referenced = []
        self.best_step = self.best_value = None
        self.failures = 0
        self.stopped = False

    def is_due(self, step: int) -> bool:
        """Whether a step must be evaluated and has not been evaluated yet."""
        # A run that was interrupted during an evaluation continues with that evaluation.
        return step // self.every > self._evaluated // self.every or (step >= self._total and self._evaluated < step)

    def _evaluate(self, step: int) -> None:
        strategy = self.model.distribute_strategy
        begin, random = time.monotonic(), process_random_state()
        try:
            mine: dict[str, Any] = {"figures": self._measure()}
        except InterruptedEvaluationError:
            mine = {"interrupted": True}
        except Exception as error:  # a task may be a user's code, and its error must not end hours of training
            mine = {"fault": f"{type(error).__name__}: {str(error).strip()[:500]}"}
        finally:
            set_process_random_state(random)
        found = share(strategy, mine)
        if any("interrupted" in each for each in found):
            return
        self._evaluated = step
        faults = [each["fault"] for each in found if "fault" in each]
        fault = faults[0] if faults else None
        if fault is None:
            # All workers use the first worker's figures, so that all of them decide alike.
            self.figures, self.figures_step = found[0]["figures"], step
            fault = self._choose(step)
        if fault is not None:
            self.failures += 1
            self.figures, self.figures_step = {"evaluation_failures": float(self.failures)}, step
            self.say(
                f"The evaluation at step {step:,} failed ({self.failures} failed so far). Training continues. {fault}"
            )
        if self._speed is not None:
            self._speed.exclude(time.monotonic() - begin)

    def _measure(self) -> dict[str, float]:
        def watch(name: str, done: int, total: int) -> None:
            if self._resume.is_interrupted:
                raise InterruptedEvaluationError

        figures: dict[str, float] = {}
        for result in Evaluation(self._embedder, watch).run(self.tasks):
            figures |= {name: float(value) for name, value in result.logs().items()}
        if self.best not in figures:
            raise ValueError(f"Expected the tasks to report {self.best!r}. They reported: {sorted(figures)}")
        return figures

    def _choose(self, step: int) -> str | None:
        """Saves the checkpoint if it is the best, or counts toward early stopping. Returns an error message or None."""
        value = self.figures[self.best]
        if self._is_better(value):
            strategy = self.model.distribute_strategy
            fault = None
            if this_worker(strategy).is_chief:
                try:
                    self._save(step, value)
                except (OSError, ValueError, tf.errors.OpError) as error:  # a full disk, or a format that does not fit
                    fault = f"The best checkpoint could not be written. {type(error).__name__}: {error}"
            fault = share(strategy, fault)[0]
            if fault is not None:
                return fault
            self.best_step, self.best_value, self._waited = step, value, 0
            self._prune({step, *self._referenced})
        else:
            self._waited += 1
        shown = f"step {step:,}: {self.best} {number_text(value)}"
        if self.best_step == step:
            self.say(f"{shown}, the best so far.")
        elif self.best_step is None:
            self.say(f"{shown}.")
        else:
            self.say(f"{shown}; the best is {number_text(self.best_value)} at step {self.best_step:,}.")
        if self.patience is not None and self._waited >= self.patience:
            self.stopped = True
            self.model.stop_training = True
            self.say(
                f"Stopped at step {step:,}: {self.best} did not get better in {self._waited} evaluations. "
                f"The best checkpoint is {self.best_path}."
            )
        return None

    def _is_better(self, value: float) -> bool:
        if not math.isfinite(value):
            return False
        if self.best_value is None:
            return True
        return value > self.best_value if self.mode == "max" else value < self.best_value

    def _folder(self) -> str:
        return tf.io.gfile.join(self._resume.directory, "best")

    def _path(self, step: int) -> str:
        return tf.io.gfile.join(self._folder(), f"step_{step:09d}")

    def _save(self, step: int, value: float) -> None:
        save_model(self.model, self._path(step))
        self._write_summary(step, value)

    def _write_summary(self, step: int, value: float) -> None:
        content = {"metric": self.best, "mode": self.mode, "value": value, "step": step, "folder": f"step_{step:09d}"}
        write_file(tf.io.gfile.join(self._folder(), "best.json"), json.dumps(content, indent=1) + "\n")

    def clean(self) -> None:
        """Removes all best checkpoints but the last. `train` calls this after the run's last checkpoint is written."""
        self._prune({self.best_step})

    def _prune(self, kept: set[int | None]) -> None:
        """Removes the best checkpoints of all steps that are not in `kept`."""
        if this_worker(self.model.distribute_strategy).is_chief:
            for step in set(self._steps_there()) - kept:
                tf.io.gfile.rmtree(self._path(step))

    def _steps_there(self) -> list[int]:
        if not tf.io.gfile.isdir(self._folder()):
            return []
        names = [name.rstrip("/") for name in tf.io.gfile.listdir(self._folder())]
        return [int(name.removeprefix("step_")) for name in names if name.removeprefix("step_").isdigit()]


class InterruptedEvaluationError(Exception):
    """Raised to end an evaluation early, because a signal asks the run to stop."""


def resolve_metric(name: str | None, there: Sequence[str]) -> str:
    """Returns the full name of a metric that is given by its full name or by the end of it.

    Raises:
        ValueError: if no metric or more than one has that name. The message lists the names.
    """
    if name is None:
        return there[0]
    found = [metric for metric in there if metric == name] or [m for m in there if m.endswith(f"/{name}")]
    if len(found) != 1:
        problem = "no metric" if not found else f"{len(found)} metrics ({', '.join(found)}) for"
        raise ValueError(
            f"Expected a metric that the tasks report. There is {problem} {name!r}. There are: {list(there)}"
        )
    return found[0]


def save_model(model: keras.Model, path: str) -> None:
    """Saves a model for use: a SigLIP model as a checkpoint, any other Keras model as a folder with its weights."""
    if not hasattr(model, "save_checkpoint"):
        with new_folder(path, last=_WEIGHTS) as aside:
            model.save_weights(tf.io.gfile.join(aside, _WEIGHTS))
    elif is_object_store(path):
        with new_folder(path, last="config.json") as aside:
            model.save_checkpoint(aside)
    else:
        model.save_checkpoint(path)


def _is_smaller_better(metric: str) -> bool:
    last = metric.rpartition("/")[2].lower()
    return any(word in last for word in _SMALLER_IS_BETTER)
