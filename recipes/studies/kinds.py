"""The kinds of cells that the studies compute."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import loss_probe, store, training
from .cell import KINDS, Cell, Kind

_LOSS = ("siglip_tf/losses", "siglip_tf/distribution", "siglip_tf/primitives", "recipes/studies/loss_probe.py")
_SCENES = ("siglip_tf/synthetic", "recipes/studies/store.py")
_TRAINING = (
    "siglip_tf/losses",
    "siglip_tf/models",
    "siglip_tf/optimizers",
    "siglip_tf/primitives",
    "siglip_tf/data/corruption.py",
    "siglip_tf/evaluation/zero_shot.py",
    "siglip_tf/evaluation/retrieval.py",
    "siglip_tf/evaluation/few_shot.py",
    "siglip_tf/evaluation/ranking.py",
    "recipes/studies/training.py",
)


def _token_needs(settings: Mapping[str, Any]) -> list[Cell]:
    return [cell for split in ("train", "validation", "test") for cell in store.shards(settings["data"], split)]


KINDS |= {
    "shard": Kind(
        _SCENES,
        store.draw_shard,
        lambda settings: [],
        lambda settings: 2e-3 * settings["count"],
        lambda result: f"{result['pictures']:,} pictures",
    ),
    "tokens": Kind(
        (*_SCENES, "siglip_tf/data/text"),
        store.tokenise,
        _token_needs,
        lambda settings: 15.0,
        lambda result: f"{result['vocabulary']:,} pieces",
    ),
    "train": Kind(_TRAINING, training.train, training.needs, training.cost, training.summary, training.group),
    "initial_loss": Kind(
        _LOSS,
        loss_probe.initial_losses,
        lambda settings: [],
        lambda settings: 20.0,
        lambda result: ", ".join(f"{loss:.2f}" for loss in result["losses"]),
    ),
    "memory": Kind(_LOSS, loss_probe.peak_bytes, lambda settings: [], lambda settings: 30.0, loss_probe.memory_summary),
}
