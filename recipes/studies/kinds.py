"""The kinds of cells that the studies compute."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import choice, loss_probe, store, tower, training
from .cell import KINDS, Cell, Kind

_LOSS = ("siglip_tf/losses", "siglip_tf/distribution", "siglip_tf/primitives", "recipes/studies/loss_probe.py")
_SCENES = ("siglip_tf/synthetic", "recipes/studies/store.py")
_MODEL = tuple(
    f"siglip_tf/models/{name}.py"
    for name in (
        "image_tower",
        "metrics",
        "pooling",
        "siglip",
        "text_tower",
        "token_embedding",
        "transformer",
        "variants",
    )
)
_OPTIMIZER = ("adamw", "chain", "groups", "schedules")
_LEARNING = (*_MODEL, *(f"siglip_tf/optimizers/{name}.py" for name in _OPTIMIZER), "siglip_tf/primitives")
_TOWER = (*_LEARNING, "recipes/studies/tower.py")
_TRAINING = (
    *_LEARNING,
    "siglip_tf/losses",
    "siglip_tf/data/corruption.py",
    "siglip_tf/evaluation/zero_shot.py",
    "siglip_tf/evaluation/retrieval.py",
    "siglip_tf/evaluation/few_shot.py",
    "siglip_tf/evaluation/ranking.py",
    "recipes/studies/training.py",
)


def _token_needs(settings: Mapping[str, Any]) -> list[Cell]:
    return [cell for part in ("train", "result") for cell in store.shards(settings["data"], part)]


def _nothing(_settings: Mapping[str, Any]) -> list[Cell]:
    return []


KINDS |= {
    "shard": Kind(
        _SCENES,
        store.draw_shard,
        _nothing,
        lambda settings: 2e-3 * settings["count"],
        lambda result: f"{result['pictures']:,} pictures",
    ),
    "tokens": Kind(
        (*_SCENES, "siglip_tf/data/text"),
        store.tokenise,
        _token_needs,
        lambda settings: 5.0 * len(settings["text"]["languages"]),
        lambda result: f"{result['vocabulary']:,} pieces",
    ),
    "noisy_tokens": Kind(
        (*_SCENES, "siglip_tf/data/text"),
        store.tokenise_noisy,
        lambda settings: [store.tokens(settings["data"], settings["text"])],
        lambda settings: 6e-4 * settings["data"]["images"],
        lambda result: f"{result['repeated']:.0%} of the pictures are repeated",
    ),
    "tower": Kind(_TOWER, tower.compute, tower.needs, tower.cost, tower.summary),
    "train": Kind(_TRAINING, training.train, training.needs, training.cost, training.summary, training.group),
    "choice": Kind(("recipes/studies/choice.py",), choice.compute, choice.needs, lambda settings: 0.05, choice.summary),
    "initial_loss": Kind(
        _LOSS,
        loss_probe.initial_losses,
        _nothing,
        lambda settings: 20.0,
        lambda result: ", ".join(f"{loss:.2f}" for loss in result["losses"]),
    ),
    "memory": Kind(_LOSS, loss_probe.peak_bytes, _nothing, lambda settings: 30.0, loss_probe.memory_summary),
}
