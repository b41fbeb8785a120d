"""The settings that all studies share at small scale: everything in plain sight, with what it is at the paper's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .cell import Cell

LANGUAGES = ("en", "de", "es", "fr", "tr", "zh")

# Drawn scenes in place of WebLI. Three captions of each language a picture.
DATA = {"images": 32_768, "image_size": 48, "languages": list(LANGUAGES), "seed": 0}
# 16 tokens, as section 4.2; a vocabulary in which every word of the scenes' English is one piece.
ENGLISH = {"languages": ["en"], "vocabulary": 600, "length": 16}
GERMAN = {"languages": ["de"], "vocabulary": 600, "length": 16}

# ViT-B/16 and text B at a twelfth of their width. A patch is as large as a place of the scenes' 3 x 3 grid.
MODEL = {
    "image": "Ti/16",
    "image_size": 48,
    "image_width": 64,
    "image_depth": 1,
    "image_mlp_dim": 256,
    "image_heads": 4,
    "text": "Ti",
    "text_width": 64,
    "text_depth": 1,
    "text_mlp_dim": 256,
    "text_heads": 4,
    # The prior of a batch of 64 is log(1 / 63) = -4.1; the paper's -10 is that of 22,000.
    "init_bias": -5.0,
}

# AdamW where the paper has Adafactor: at this size the state is small. Some hundred steps are few for t and b to leave
# their initial values, which suit a hundred thousand: their learning rate is ten times the others'.
OPTIMIZER = {
    "learning_rate": 2e-3,
    "weight_decay": 1e-4,
    "beta_2": 0.95,
    "warmup": 0.1,
    "scalars_learning_rate": 10.0,
}


def cell(label: str, seed: int, *, batch: int, examples: int, **changes: Any) -> Cell:
    """A training run from scratch.

    Args:
        label: what people read.
        seed: of weights, order and captions.
        batch: pairs a step.
        examples: pairs of the whole run.
        **changes: "model" and "optimizer" are laid over the shared ones; others are added to the settings.
    """
    settings: dict[str, Any] = {
        "data": DATA,
        "text": changes.pop("text", ENGLISH),
        "model": {**MODEL, **changes.pop("model", {})},
        "optimizer": {**OPTIMIZER, **changes.pop("optimizer", {})},
        "batch": batch,
        "examples": examples,
        "seed": seed,
        **changes,
    }
    return Cell("train", settings, f"{label}, seed {seed}")


TOWER_EXAMPLES = 49_152


def tower(**changes: Any) -> Mapping[str, Any]:
    """What makes a run start from the pretrained image tower: a tower trained with German captions, so that it knows
    the pictures and no English text tower comes with it."""
    pretraining = cell("the pretrained image tower", 100, batch=64, examples=TOWER_EXAMPLES, text=GERMAN, keep=True)
    return {"from": dict(pretraining.settings), **changes}


def siglit(label: str, seed: int, *, batch: int, examples: int, **changes: Any) -> Cell:
    """A training run on the pretrained tower's stored embeddings: a text tower alone learns (section 4.1)."""
    return cell(label, seed, batch=batch, examples=examples, tower=tower(frozen=True), **changes)
