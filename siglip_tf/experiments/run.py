"""Trains a run from its last checkpoint to its end, with evaluations during training and a report."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf
from ml_collections import ConfigDict

from siglip_tf import processor
from siglip_tf.distribution import describe, find_strategy
from siglip_tf.experiments import config
from siglip_tf.experiments.build import build_model, open_data, parameter_count, total_steps
from siglip_tf.experiments.feeding import feed
from siglip_tf.experiments.held_out import held_out_task
from siglip_tf.experiments.inputs import FirstWeights, Prepared
from siglip_tf.experiments.recipe import Recipe
from siglip_tf.experiments.run_folder import RunFolder
from siglip_tf.training import PeriodicEvaluation, Resume, Watch, read_metrics, train
from siglip_tf.training.trackers import tracker_callbacks
from siglip_tf.training.workers import this_worker


def run(
    recipe: Recipe,
    c: ConfigDict,
    path: str,
    synthetic: bool = False,
    *,
    named: Collection[str] = (),
    until: int | None = None,
    fresh: bool = False,
    command: str | None = None,
    inputs: str | None = None,
) -> None:
    """Trains a recipe to its end, and writes its checkpoint and its report.

    Args:
        recipe: the recipe to train.
        c: its settings, which are checked already.
        path: the run's folder. If it holds this run, the run continues.
        synthetic: whether to train on synthetic data.
        named: the settings that the command line named. `Recipe.adapt` does not change them.
        until: the step at which to stop. The same run can continue later.
        fresh: whether to delete the run that is in the folder.
        command: the command line, for messages and the report.
        inputs: addresses of input processes, separated by commas. With None, this process makes the batches.

    Raises:
        ValueError: if the folder holds another run, or the data cannot be used.
        InputProcessError: if an input process has ended, has stalled, or serves another run.
        SystemExit: after SIGTERM or Ctrl-C, once the state is saved.
    """
    processor.keep_memory()
    strategy = find_strategy(steps_per_execution=c.steps_per_execution)
    keras.utils.set_random_seed(c.seed)
    if c.deterministic:
        tf.config.experimental.enable_op_determinism()
    chief = this_worker(strategy).is_chief
    say = _say if chief else _say_nothing
    folder = RunFolder(path, chief)
    if not fresh:
        config.keep_former(c, folder.former())
    folder.claim(config.flat(c), recipe.may_change, fresh)
    if recipe.shape is not None and not synthetic:
        for line in recipe.shape(c, named, open_data(c).size):
            say(line)
    prepared = recipe.prepare(c, path, synthetic)
    if recipe.adapt is not None:
        for line in recipe.adapt(c, named, None if synthetic else prepared.examples):
            say(line)
    steps = total_steps(c, prepared.examples)
    if (figures := folder.finished(steps)) is not None and until is None:
        from siglip_tf.experiments.report.run_report import show

        say(f"Done already: {steps:,} steps in {path}. --fresh trains again from the start.")
        show(figures, say)
        return
    with strategy.scope():
        model = build_model(c, steps)
    model.preprocessing = prepared.preprocessing
    trained = parameter_count(model.trainable_weights)
    if processor.notice():
        say(processor.notice())
    say(f"{describe(strategy)}: {parameter_count(model.weights):,} parameters, {trained:,} trained")
    say(f"{steps:,} steps of {c.batch:,} pairs; {path}")

    resume = Resume(
        path,
        every=min(c.checkpoint_every, steps),
        keep_last=c.keep_last,
        keep_every=c.keep_every,
        initial_weights=None
        if prepared.weights is None
        else _Start(prepared.weights, c.start or c.tower or "the pictures"),
        say=say,
    )
    stop = steps if until is None else min(until, steps)
    spikes = {} if c.spike is None else {"gradient_norm": c.spike}
    looks = c.log_every if isinstance(strategy, tf.distribute.TPUStrategy) else 1
    watch = Watch(resume, c.on_fault, spikes=spikes, every=looks, say=say)
    data = feed(prepared.data(), inputs, strategy)
    evaluation = evaluation_of(recipe, c, prepared, steps, say)
    every = min(c.log_every, max(1, steps // 20))
    trackers = (
        []
        if c.tracker is None or not chief
        else tracker_callbacks(
            [c.tracker], path, config.flat(c), lambda: resume.step, every=every, evaluation=evaluation, say=say
        )
    )
    with getattr(data, "guard", contextlib.nullcontext)():
        reached = train(
            model,
            data,
            steps=stop,
            global_batch_size=c.batch,
            resume=resume,
            watch=watch,
            log_every=every,
            evaluation=evaluation,
            callbacks=trackers,
        )
    ended_early = evaluation is not None and evaluation.stopped
    if reached < steps and not ended_early:
        say(f"Stopped at step {reached:,} of {steps:,}. The same command continues.")
        return
    if chief:
        _finish(recipe, c, folder, model, prepared, steps, reached, command or recipe.command)


def evaluation_of(
    recipe: Recipe, c: ConfigDict, prepared: Prepared, steps: int, say: Callable[[str], None]
) -> PeriodicEvaluation | None:
    """Returns the evaluation during training that the settings or the recipe ask for, or None.

    Raises:
        ValueError: if a task is unknown, its files are missing, or there is no held-out part.
    """
    texts = shlex.split(c.evaluate.tasks or "")
    every = c.evaluate.every
    if not texts and not every:
        if not recipe.evaluations or prepared.held_out is None:
            return None
        every = max(1, steps // recipe.evaluations)
    if (not texts or "held_out" in texts) and prepared.held_out is None:
        raise ValueError(
            "Expected --evaluate to name a task, since this recipe's data has no held-out part. "
            f"Received: {c.evaluate.tasks}"
        )
    tasks = [held_out_task(prepared.held_out) if text == "held_out" else text for text in texts or ["held_out"]]
    return PeriodicEvaluation(
        tasks, every or steps, best=c.evaluate.metric, patience=c.evaluate.patience, last_step=steps, say=say
    )


def _finish(
    recipe: Recipe,
    c: ConfigDict,
    folder: RunFolder,
    model: Any,
    prepared: Prepared,
    steps: int,
    reached: int,
    command: str,
) -> None:
    """Writes the checkpoint, and the report if the settings ask for one."""
    (prepared.finish or _save)(model, folder / "checkpoint")
    _say(f"Checkpoint: {folder / 'checkpoint'}; metrics: {folder / 'metrics.jsonl'} and {folder / 'tensorboard'}")
    metrics = read_metrics(folder / "metrics.jsonl")
    figures = {
        "steps": steps,
        "reached": reached,
        "pairs": reached * c.batch,
        "seconds": round(seconds_of(metrics, c.batch)),
    }
    if c.report:
        from siglip_tf.experiments.report.run_report import report

        figures |= report(recipe, c, folder, model, prepared, metrics, figures, command, _say)
    folder.finish(figures)


def seconds_of(metrics: Sequence[Mapping[str, Any]], batch: int) -> float:
    """Returns how many seconds training took, from the speeds in `metrics.jsonl`. It includes earlier processes."""
    seconds, before = 0.0, 0
    speeds = [line.get("images_per_second") for line in metrics]
    usual = next((speed for speed in speeds if speed), None)
    for line, speed in zip(metrics, speeds, strict=True):
        if usual:
            seconds += (line["step"] - before) * batch / (speed or usual)
        before = line["step"]
    return seconds


def _save(model: Any, path: str) -> None:
    """Saves the model as a checkpoint with merged adapters, and the adapters alone in a file beside it."""
    model.save_checkpoint(path)
    if model.has_adapters:
        model.save_adapters(f"{path}.adapters.safetensors")


class _Start:
    """Assigns a checkpoint's weights to the model, and leaves the other weights at their initial values."""

    def __init__(self, weights: Mapping[str, Any] | FirstWeights, source: str):
        self._given, self._source = weights, source
        self._weights: Mapping[str, Any] = {}

    def __call__(self, model: Any) -> None:
        initial = {name: variable.numpy() for name, variable in model.named_weights().items()}
        self._weights = self._given(model) if callable(self._given) else self._given
        model.assign_weights({**initial, **self._weights})

    def __str__(self) -> str:
        return f"{len(self._weights)} of {self._source}"


def _say(text: str) -> None:
    print(text, flush=True)


def _say_nothing(text: str) -> None:
    del text
