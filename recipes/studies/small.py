"""The settings that all studies share at small scale: each value, next to the paper's value."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from .cell import Cell

LANGUAGES = ("en", "de", "es", "fr", "tr", "zh")

# Crowded scenes in place of WebLI. Three captions of each language a picture.
DATA = {"images": 32_768, "image_size": 48, "languages": list(LANGUAGES), "seed": 0}
# 16 tokens, as section 4.2; a vocabulary in which nearly every word of the scenes' English is one piece.
ENGLISH = {"languages": ["en"], "vocabulary": 400, "length": 16}

# A patch is as large as a place of the scenes' 3 x 3 grid. The text tower is a twenty-fourth of B's width.
MODEL = {
    "image": "Ti/16",
    "image_size": 48,
    "image_width": 64,
    "image_depth": 2,
    "image_mlp_dim": 256,
    "image_heads": 4,
    "text": "Ti",
    "text_width": 32,
    "text_depth": 1,
    "text_mlp_dim": 64,
    "text_heads": 2,
    "init_temperature": 10.0,
    "init_bias": -10.0,
}

# AdamW where the paper has Adafactor: at this size the state is small. Some hundred steps are few for t and b to leave
# their initial values, which suit a hundred thousand: their learning rate is ten times the others'.
OPTIMIZER = {
    "learning_rate": 3e-3,
    "weight_decay": 1e-4,
    "beta_2": 0.95,
    "warmup": 0.1,
    "scalars_learning_rate": 10.0,
}

LOSSES = ("sigmoid", "softmax")
LEARNING_RATES = (2e-3, 6e-3, 2e-2)
PAPER_BIAS, PAPER_TEMPERATURE = -10.0, 10.0
CHOOSING_SEEDS = 1


def prior(batch: int) -> float:
    """The bias whose sigmoid is the share of positives among a batch's pairs."""
    return -math.log(batch - 1)


def options(loss: str, batch: int, learning_rates: Sequence[float] = LEARNING_RATES) -> list[dict[str, float]]:
    """As many options for each loss: learning rates, with two starts of b (sigmoid) or of t (softmax)."""
    if loss == "sigmoid":
        starts = [{"init_bias": PAPER_BIAS}, {"init_bias": prior(batch)}]
    else:
        starts = [{"init_temperature": PAPER_TEMPERATURE}, {"init_temperature": 2 * PAPER_TEMPERATURE}]
    return [{"learning_rate": rate, **start} for start in starts for rate in learning_rates]


def cell(label: str, seed: int, *, batch: int, examples: int, **changes: Any) -> Cell:
    """A training run from scratch.

    Args:
        label: what people read.
        seed: of weights, order and captions.
        batch: pairs a step.
        examples: pairs of the whole run.
        **changes: "model" and "optimizer" are laid over the shared ones; "choose", a list of options, chooses settings
            for the same run on clean data and with all pairs; others are added to the settings.
    """
    chosen_from = changes.pop("choose", None)
    settings: dict[str, Any] = {
        "data": DATA,
        "text": changes.pop("text", ENGLISH),
        "model": {**MODEL, **changes.pop("model", {})},
        "optimizer": {**OPTIMIZER, **changes.pop("optimizer", {})},
        "batch": batch,
        "examples": examples,
        **changes,
    }
    if chosen_from:
        settings["choice"] = choice(settings, chosen_from)
    return Cell("train", {**settings, "seed": seed}, f"{label}, seed {seed}")


def choice(settings: Mapping[str, Any], chosen_from: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Settings of the cell that chooses for a run: on clean data, with all pairs, evaluated once."""
    left_out = ("noise", "corruption", "evaluate_at", "points", "few_shot", "jit")
    base = {name: value for name, value in settings.items() if name not in left_out}
    masks = ("negatives", "equal_captions")
    base["model"] = {name: value for name, value in base["model"].items() if name not in masks}
    # What every option sets decides nothing, so that runs that differ in it alone share one choice.
    for name in ("init_bias", "init_temperature"):
        if all(name in option for option in chosen_from):
            base["model"] = {**base["model"], name: MODEL[name]}
    return {"base": base, "options": [dict(option) for option in chosen_from], "seeds": CHOOSING_SEEDS}


def of_loss(loss: str) -> dict[str, Any]:
    """The "model" of a loss."""
    return {"model": {"loss": "softmax"}} if loss == "softmax" else {}


TOWER_EXAMPLES = 196_608
TOWER = {
    "data": DATA,
    "model": {name: value for name, value in MODEL.items() if name.startswith("image")} | {"text": "mu"},
    "batch": 128,
    "examples": TOWER_EXAMPLES,
    "learning_rate": 3e-3,
    "seed": 100,
}


def siglit(label: str, seed: int, *, batch: int, examples: int, **changes: Any) -> Cell:
    """A training run on the pretrained tower's stored embeddings: a text tower alone learns (section 4.1)."""
    frozen = {"pretrained": TOWER, "frozen": True}
    return cell(label, seed, batch=batch, examples=examples, tower=frozen, **changes)
