"""Which learning rate, temperature and bias a setting trains with: chosen on seeds and pictures of their own.

A choice trains every option with seeds that no result uses, and takes the option that is best on pictures that no
result is computed from.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .cell import Cell

FIRST_SEED = 1_000  # results count from 0


def cell(settings: Mapping[str, Any]) -> Cell:
    """The cell that chooses.

    Args:
        settings: "base", the settings of a training run without its seed, and "options", a list of mappings with
            "learning_rate", "init_temperature" and "init_bias", of which those that are missing stay as they are;
            "seeds", how many.
    """
    return Cell("choice", settings, "choosing settings")


def candidates(settings: Mapping[str, Any]) -> list[list[Cell]]:
    """Returns the runs of each option, one for each seed."""
    return [
        [
            Cell(
                "train",
                {**laid_over(settings["base"], option), "seed": FIRST_SEED + seed},
                f"choosing: batch {settings['base']['batch']}, {shown(option)}",
            )
            for seed in range(settings["seeds"])
        ]
        for option in settings["options"]
    ]


def laid_over(settings: Mapping[str, Any], option: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings with the values of an option."""
    optimizer = {name: option[name] for name in ("learning_rate",) if name in option}
    model = {name: option[name] for name in ("init_temperature", "init_bias") if name in option}
    return {
        **settings,
        "optimizer": {**settings["optimizer"], **optimizer},
        "model": {**settings["model"], **model},
    }


def needs(settings: Mapping[str, Any]) -> list[Cell]:
    """Returns the runs of all candidates."""
    return [run for runs in candidates(settings) for run in runs]


def compute(settings: Mapping[str, Any], _folder: Path, root: Path) -> dict[str, Any]:
    """Takes the best option.

    Returns:
        "chosen", one of the options; "figures", the mean accuracy of each.
    """
    figures = [statistics.fmean(run.result(root)["final"]["choosing"] for run in runs) for runs in candidates(settings)]
    best = max(range(len(figures)), key=figures.__getitem__)
    return {"chosen": settings["options"][best], "figures": figures, "options": settings["options"]}


def summary(result: Mapping[str, Any]) -> str:
    """Returns the chosen values, for the progress line."""
    return f"{shown(result['chosen'])} of {len(result['options'])} options"


def shown(option: Mapping[str, Any]) -> str:
    """ "learning rate 0.003, t = 10, b = -4.1" """
    parts = []
    if "learning_rate" in option:
        parts.append(f"learning rate {option['learning_rate']:g}")
    if "init_temperature" in option:
        parts.append(f"t = {option['init_temperature']:g}")
    if option.get("init_bias") is not None:
        parts.append(f"b = {option['init_bias']:.3g}")
    return ", ".join(parts)
