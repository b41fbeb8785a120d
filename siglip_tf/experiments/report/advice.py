"""Explains the results of a run: whether a baseline is better, and what to try next."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from siglip_tf.experiments.report.page import Figure

_FEW_PAIRS = 20_000
_GOOD = 0.9  # a figure above this needs no advice
_FEW_TOKENS = 16
_LONGER, _AT_MOST = 8, 3_300  # a longer training: how many times the steps, and at most about how many seconds in all


def warning(figures: Sequence[Figure]) -> str:
    """Returns the first sentence of a report whose model is not better than a baseline, or "" if it is better."""
    for figure in figures:
        for name in figure.winners:
            return (
                f"The baseline wins: {name} reaches {figure.baselines[name]:.1%}, this model {figure.value:.1%} "
                f"({figure.name})."
            )
    weak = [figure for figure in figures if figure.value < 2 * figure.chance and figure.chance < 0.5]
    return f"{weak[0].name} is hardly better than chance." if weak else ""


def advice(
    c: ConfigDict,
    figures: Sequence[Figure],
    metrics: Sequence[Mapping[str, Any]],
    steps: int,
    examples: int,
    seconds: float,
    command: str = "",
    continues: bool = False,
) -> list[str]:
    """Returns sentences that say what to try next, the most promising first. Empty if the first figure is good.

    Args:
        c: the settings of the run.
        figures: the results. The first one is the most important.
        metrics: the lines of `metrics.jsonl`.
        steps: number of steps of the run.
        examples: number of pairs in the training data.
        seconds: the duration of training in seconds.
        command: the command line of the run.
        continues: whether the run can continue with more steps.
    """
    if not figures or (figures[0].value >= _GOOD and not figures[0].winners):
        return []
    sentences = []
    epochs = steps * c.batch / examples
    if _still_improves(metrics):
        sentences.append(
            f"Train longer: the figures were still getting better at the end ({epochs:.3g} passes over the data). "
            + _train_longer(steps, seconds, command, continues)
        )
    if not c.start and examples < _FEW_PAIRS:
        sentences.append(
            f"Start from a trained model: {examples:,} pairs are few to learn from alone. "
            "python -m recipes.finetune --start CHECKPOINT --data ... does that."
        )
    if c.model.image and examples >= _FEW_PAIRS and (tokens := _tokens(c)) < _FEW_TOKENS:
        sentences.append(
            f"Use smaller patches: the image tower sees {tokens} patches a picture. --set model.image=Ti/8 sees "
            f"{(c.model.image_size // 8) ** 2}, and a step takes longer."
        )
    if epochs > 10 and c.augment.shift == c.augment.scale == c.augment.color == 0:
        sentences.append(
            "Vary the pictures: they were seen many times over and never changed. "
            "--set augment.shift=0.1 --set augment.scale=0.2 --set augment.color=0.3"
        )
    if epochs < 5 and examples < 10 * _FEW_PAIRS:
        sentences.append(f"Train longer: the data was passed {epochs:.1f} times; 30 passes and more are usual.")
    sentences.append(
        "Look at the mistakes below and at the data: python -m tools.inspect_data names repeated captions, broken "
        "pictures and texts that are cut off."
    )
    return sentences


def _train_longer(steps: int, seconds: float, command: str, continues: bool) -> str:
    """Returns a sentence with the command that trains longer. It takes at most about an hour if the run was shorter."""
    more = min(_LONGER, max(2.0, _AT_MOST / max(seconds, 1.0)))
    longer = 100 * round(more * steps / 100) if steps >= 100 else round(more * steps)
    minutes = (longer - continues * steps) / steps * seconds / 60
    time = f"{minutes / 60:.1f} hours"
    if minutes < 90:
        time = "a minute" if minutes < 1.5 else f"{minutes:.0f} minutes"
    how = "This continues from the last step and takes" if continues else "This takes"
    return f"{how} about {time}{' more' if continues else ''} here: {longer_command(command, longer, continues)}"


def longer_command(command: str, steps: int, continues: bool) -> str:
    """Returns the command line of a run with another number of steps, for `make` if the run was started by `make`.

    Args:
        command: the command line of the run.
        steps: number of steps of the whole run.
        continues: whether a run with more steps continues where it ended, as quickstart does, or starts again.
    """
    words = shlex.split(command)
    module, words = words[:3], words[3:]  # python -m recipes.quickstart
    kept: dict[str, str] = {}
    others = []
    while words:
        word = words.pop(0)
        name, equals, value = word.partition("=")
        if name in ("--steps", "--data"):
            kept[name] = value if equals else words.pop(0)
        elif word == "--set" and words[0].startswith("duration="):
            words.pop(0)
        elif word != "--fresh" and not word.startswith("--set=duration="):
            others.append(word)
    others += ["--steps", str(steps)] if continues else [f"--set=duration={steps} steps", "--fresh"]
    if "MAKELEVEL" in os.environ and module[-1:] == ["recipes.quickstart"]:
        data = [f"DATA={shlex.quote(kept['--data'])}"] if "--data" in kept else []
        return " ".join(["make", "quickstart", *data, f"ARGS={shlex.quote(shlex.join(others))}"])
    data = ["--data", kept["--data"]] if "--data" in kept else []
    return shlex.join([*module, *data, *others])


def _tokens(c: ConfigDict) -> int:
    patch = int(c.model.image.partition("/")[2] or c.model.patch_size)
    return (c.model.image_size // patch) ** 2


def _still_improves(metrics: Sequence[Mapping[str, Any]]) -> bool:
    """Whether an evaluation metric, or else the loss, was better in the run's last fifth than in all fifths before.

    One fifth before is not enough: a flat curve with noise is above its former point half of the time.
    """
    names = [name for line in metrics for name in line if "/" in name and "failures" not in name]
    name, sign = (names[0], 1.0) if names else ("loss", -1.0)
    values = [sign * line[name] for line in metrics if isinstance(line.get(name), int | float)]
    if len(values) < 5:
        return True
    *before, last = (sum(part) / len(part) for part in np.array_split(values, 5))
    return last > max(before) + 0.002
