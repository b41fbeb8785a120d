"""Finds settings that do not fit each other, before TensorFlow is imported.

`schema` checks each setting alone. This module checks settings against each other, against the files that they name,
and against what the recipe needs.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping

from ml_collections import ConfigDict

# Settings that name a file or folder which must exist.
_FILES = ("tokenizer", "start", "tower")
_PERCENT = ("%", "percent")


def check(c: ConfigDict, needed: Mapping[str, str]) -> None:
    """Raises a ValueError for settings that cannot be trained with.

    Args:
        c: the settings.
        needed: the settings that the recipe needs, each with the error message if it is missing.

    Raises:
        ValueError: the first fault found.
    """
    check_plan(c)
    for key, message in needed.items():
        if not c[key]:
            raise ValueError(message)
    _check_files(c)


def check_plan(c: ConfigDict) -> None:
    """Does the part of `check` that a plan without data needs too."""
    _check_model(c)
    _check_lengths(c)
    _check_evaluation(c)
    if c.tune.image == c.tune.text == "frozen" and not c.tune.scalars:
        raise ValueError("Expected something to train. Received: tune.image=frozen, tune.text=frozen, scalars=False")


def check_topology(c: ConfigDict) -> None:
    """Raises a ValueError for a batch that the chips of `topology` do not divide."""
    chips = math.prod(map(int, c.topology.partition(":")[2].split("x")))
    if c.batch % chips:
        raise ValueError(
            f"Expected a batch that the {chips} chips of {c.topology} divide. Received: batch={c.batch}. "
            "Another batch: --set batch=...; other chips: --set topology=v4:2x2x1"
        )


def _check_model(c: ConfigDict) -> None:
    m = c.model
    patch = m.patch_size
    if m.image is not None:
        named = m.image.partition("/")[2]
        if named and patch is not None and int(named) != patch:
            raise ValueError(f"Expected one patch size. Received: model.image={m.image}, model.patch_size={patch}")
        if not named and patch is None:
            raise ValueError(
                f"Expected a patch size, as in 'B/16' or model.patch_size=16. Received: model.image={m.image!r}"
            )
        patch = int(named or patch)
        if patch > m.image_size:
            raise ValueError(f"Expected a patch of at most model.image_size={m.image_size} pixels. Received: {patch}")
    for tower in ("image", "text"):
        width, heads = m[f"{tower}_width"], m[f"{tower}_heads"]
        if width and heads and width % heads:
            raise ValueError(
                f"Expected heads that divide model.{tower}_width={width}. Received: model.{tower}_heads={heads}"
            )
    if m.microbatch_size is not None and m.microbatch_size < c.batch and c.batch % m.microbatch_size:
        raise ValueError(
            f"Expected a microbatch that divides batch={c.batch}. Received: model.microbatch_size={m.microbatch_size}"
        )
    if m.scan_layers and m.remat == "none":
        raise ValueError("Expected model.remat=block with model.scan_layers. Received: model.remat=none")


def _check_lengths(c: ConfigDict) -> None:
    shares = [_percent(c.schedule[name]) or 0.0 for name in ("warmup", "cooldown")]
    if sum(shares) > 100:
        raise ValueError(
            "Expected schedule.warmup and schedule.cooldown to fit into the run together. "
            f"Received: {shares[0]:g}% and {shares[1]:g}%"
        )
    if c.checkpoint_every % c.steps_per_execution:
        raise ValueError(
            f"Expected checkpoint_every to be a multiple of steps_per_execution={c.steps_per_execution}. "
            f"Received: {c.checkpoint_every}"
        )


def _percent(duration: str) -> float | None:
    if not duration.strip().endswith(_PERCENT):
        return None
    return float(re.sub(r"[^0-9.]", "", duration))


def _check_evaluation(c: ConfigDict) -> None:
    e = c.evaluate
    if e.patience is not None and not e.every:
        raise ValueError("Expected --every STEPS with evaluate.patience: early stopping needs evaluations on the way.")
    if e.every % c.steps_per_execution:
        raise ValueError(
            f"Expected --every to be a multiple of steps_per_execution={c.steps_per_execution}. Received: {e.every}"
        )


def _check_files(c: ConfigDict) -> None:
    for key in _FILES:
        if (path := c[key]) and "://" not in path and not os.path.exists(path):
            raise ValueError(f"Expected --{key} to name a file or folder. There is none at {path!r}.")
    path = (c.data or "").partition("?")[0]
    if path and not re.search(r"^\w+:|[*?\[{]", path) and path not in ("scenes", "synthetic") \
            and not os.path.exists(path):  # fmt: skip
        raise ValueError(f"Expected --data to name pictures and captions. There is nothing at {path!r}.")
