"""The kinds of cells that a sweep computes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from . import loss_probe, store, training
from .sweep import Cell


@dataclasses.dataclass(frozen=True)
class Kind:
    """How cells of a kind are computed.

    Attributes:
        version: part of the content; changes when the same settings would give another result.
        compute: (settings, folder of the cell, folder of all cells) -> JSON-able result.
        needs: cells that must be there first.
        cost: estimated seconds on one core.
        summary: of a result, for the progress line.
        group: cells of one group are cheaper in one process, one after the other.
    """

    version: int
    compute: Callable[[Mapping[str, Any], Path, Path], dict[str, Any]]
    needs: Callable[[Mapping[str, Any]], list[Cell]]
    cost: Callable[[Mapping[str, Any]], float]
    summary: Callable[[Mapping[str, Any]], str]
    group: Callable[[Mapping[str, Any]], str] = lambda settings: ""


def _token_needs(settings: Mapping[str, Any]) -> list[Cell]:
    return [cell for split in ("train", "validation", "test") for cell in store.shards(settings["data"], split)]


KINDS: dict[str, Kind] = {
    "shard": Kind(
        1,
        store.draw_shard,
        lambda settings: [],
        lambda settings: 2e-3 * settings["count"],
        lambda result: f"{result['pictures']:,} pictures",
    ),
    "tokens": Kind(
        1,
        store.tokenise,
        _token_needs,
        lambda settings: 15.0,
        lambda result: f"{result['vocabulary']:,} pieces",
    ),
    "train": Kind(1, training.train, training.needs, training.cost, training.summary, training.group),
    "initial_loss": Kind(
        1,
        loss_probe.initial_losses,
        lambda settings: [],
        lambda settings: 20.0,
        lambda result: ", ".join(f"{loss:.2f}" for loss in result["losses"]),
    ),
    "memory": Kind(2, loss_probe.peak_bytes, lambda settings: [], lambda settings: 30.0, loss_probe.memory_summary),
}
