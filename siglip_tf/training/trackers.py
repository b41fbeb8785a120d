"""Logs metrics to Weights & Biases and MLflow, if they are installed."""

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from siglip_tf.training.metric_values import scalars

NAMES = ("wandb", "mlflow")


class TrackerLog(keras.callbacks.Callback):
    """Sends a run's metrics, and the metrics of its evaluations, to a tracker every few steps.

    Args:
        send: a function that is called with a step and its metrics.
        step: a function that returns the number of steps done (`lambda: resume.step`).
        every: number of steps between two calls. Steps with an evaluation are sent too.
        evaluation: the run's evaluation callback.
        close: a function that is called at the end of training.
        say: a function that receives a message if the tracker fails. Training continues without the tracker.
    """

    def __init__(
        self,
        send: Callable[[int, Mapping[str, float]], None],
        step: Callable[[], int],
        *,
        every: int = 50,
        evaluation: Any = None,
        close: Callable[[], None] = lambda: None,
        say: Callable[[str], None] = print,
    ):
        super().__init__()
        if every < 1:
            raise ValueError(f"Expected every >= 1 step. Received: every={every}")
        self._send, self._step, self._every, self._close = send, step, every, close
        self._evaluation = evaluation
        self._say = say
        self._sent = 0
        self._failed = False

    def on_train_begin(self, logs=None):
        self._sent = self._step()

    def on_train_batch_end(self, batch, logs=None):
        step = self._step()
        evaluated = self._evaluation is not None and self._evaluation.figures_step == step
        if evaluated or step // self._every > self._sent // self._every:
            self._sent = step
            metrics = scalars(logs) | (self._evaluation.figures if evaluated else {})
            self._try(lambda: self._send(step, {k: v for k, v in metrics.items() if math.isfinite(v)}))

    def on_train_end(self, logs=None):
        self._try(self._close)

    def _try(self, act: Callable[[], Any]) -> None:
        if self._failed:
            return
        try:
            act()
        except Exception as error:  # a failure of an external service must not end a run of days
            self._failed = True
            self._say(f"The tracker failed and is left out from here on. {type(error).__name__}: {error}")


def tracker_callbacks(
    names: Sequence[str],
    directory: str,
    settings: Mapping[str, Any],
    step: Callable[[], int],
    *,
    every: int = 50,
    evaluation: Any = None,
    say: Callable[[str], None] = print,
) -> list[keras.callbacks.Callback]:
    """Returns a callback for each tracker, for `train(..., callbacks=...)`. Only the chief should create them.

    The tracker's run is named after the run's folder, so a resumed run continues the same run in the tracker. A
    tracker's own documentation says how to set its server and account (`WANDB_PROJECT`, `WANDB_MODE`,
    `MLFLOW_TRACKING_URI`).

    Args:
        names: names from `NAMES`.
        directory: the run's folder.
        settings: the run's settings, by dotted name.
        step: a function that returns the number of steps done (`lambda: resume.step`).
        every: number of steps between metrics.
        evaluation: the run's evaluation callback.
        say: a function that receives messages.

    Raises:
        ValueError: if a name is not in `NAMES`.
        ImportError: if a tracker is not installed. The message says how to install it.
    """
    if unknown := [name for name in names if name not in NAMES]:
        raise ValueError(f"Expected trackers among {NAMES}. Received: {unknown[0]!r}")
    name = str(directory).rstrip("/").rpartition("/")[2]
    options = {"every": every, "evaluation": evaluation, "say": say}
    make = {"wandb": _wandb, "mlflow": _mlflow}
    return [
        make[tracker](_installed(tracker), str(directory), name, dict(settings), step, options) for tracker in names
    ]


def _installed(tracker: str) -> Any:
    try:
        return importlib.import_module(tracker)
    except ImportError as error:
        raise ImportError(
            f"{tracker} is not installed. Install it (pip install {tracker}), or do not name it."
        ) from error


def _wandb(wandb: Any, directory: str, name: str, settings: dict[str, Any], step, options) -> keras.callbacks.Callback:
    run = wandb.init(id=_identity(directory), name=name, config=settings, resume="allow")
    return TrackerLog(lambda at, metrics: run.log(dict(metrics), step=at), step, close=run.finish, **options)


def _mlflow(
    mlflow: Any, directory: str, name: str, settings: dict[str, Any], step, options
) -> keras.callbacks.Callback:
    earlier = mlflow.search_runs(filter_string=f"tags.siglip_tf_run = '{_identity(directory)}'", output_format="list")
    if earlier:
        mlflow.start_run(run_id=earlier[0].info.run_id)
    else:
        mlflow.start_run(run_name=name, tags={"siglip_tf_run": _identity(directory)})
        mlflow.log_params({key: str(value)[:500] for key, value in settings.items()})
    # MLflow refuses some characters that occur in metric names, such as "@".
    allowed = str.maketrans({"@": "_at_"})

    def send(at: int, metrics: Mapping[str, float]) -> None:
        mlflow.log_metrics({key.translate(allowed): value for key, value in metrics.items()}, step=at)

    return TrackerLog(send, step, close=mlflow.end_run, **options)


def _identity(directory: str) -> str:
    """Returns a name for a run's folder that both trackers accept as an identifier."""
    return "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in directory.rstrip("/"))[-64:]
