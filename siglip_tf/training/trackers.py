"""Weights & Biases and MLflow as loggers, by their own Keras callbacks or a few lines, where they are installed."""

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from siglip_tf.training.metric_values import scalars

NAMES = ("wandb", "mlflow")


class TrackerLog(keras.callbacks.Callback):
    """Sends a run's metrics, and the figures of its evaluations, to a tracker every so many steps.

    Args:
        send: called with a step and its metrics.
        step: returns the number of steps done (`lambda: resume.step`).
        every: steps between two calls. Steps with an evaluation are sent too.
        evaluation: what is evaluated while training.
        close: called at the end of training.
        say: receives a message when the tracker fails; training continues without it.
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
        except Exception as error:  # a tracker is a service elsewhere: a run of days is not lost to it
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
    """A callback for each tracker, for `train(..., callbacks=...)`. Only the chief should make them.

    A resumed run continues its run in the tracker: its name is the run's folder. Where a tracker keeps its data, and
    under which account, is set as its own documentation says (`WANDB_PROJECT`, `WANDB_MODE`, `MLFLOW_TRACKING_URI`).

    Args:
        names: among `NAMES`.
        directory: the run's folder.
        settings: the run's settings, by dotted name.
        step: returns the number of steps done (`lambda: resume.step`).
        every: steps between metrics.
        evaluation: what is evaluated while training.
        say: receives messages.

    Raises:
        ValueError: another name.
        ImportError: a tracker that is not installed; the message says how to install it.
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
    # MLflow refuses some characters that stand in metric names, such as "@".
    allowed = str.maketrans({"@": "_at_"})

    def send(at: int, metrics: Mapping[str, float]) -> None:
        mlflow.log_metrics({key.translate(allowed): value for key, value in metrics.items()}, step=at)

    return TrackerLog(send, step, close=mlflow.end_run, **options)


def _identity(directory: str) -> str:
    """A name for a run's folder that both trackers take as an identifier."""
    return "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in directory.rstrip("/"))[-64:]
