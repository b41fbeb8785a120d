"""One table, canonical name -> foreign name, serves a format in both directions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from siglip_tf.checkpoints import architecture as arch
from siglip_tf.checkpoints.checkpoint import Checkpoint, KeyReport

Rename = Callable[[str], str]


def canonical_names(
    image_depth: int, image_pool: str = "map", text_depth: int | None = None, bottleneck: bool = False
) -> list[str]:
    """Names of all weights of a model of these depths, in its order; no text tower where `text_depth` is None."""
    any_width = dict.fromkeys(("image_width", "image_mlp_dim", "image_heads", "patch_size", "image_size"), 1)
    model = {**any_width, "image_depth": image_depth, "image_pool": image_pool}
    if text_depth is not None:
        any_width = dict.fromkeys(("text_width", "text_mlp_dim", "text_heads", "text_length", "vocab_size"), 1)
        model |= {**any_width, "embed_dim": 1, "text_depth": text_depth, "token_bottleneck": 1 if bottleneck else None}
    return list(arch.expected_shapes(model))


def rename_by(rules: Sequence[tuple[str, str]]) -> Rename:
    """A renaming by regular expressions, each applied in turn to the whole name."""
    compiled = [(re.compile(pattern), replacement) for pattern, replacement in rules]

    def rename(name: str) -> str:
        for pattern, replacement in compiled:
            name = pattern.sub(replacement, name)
        return name

    return rename


def depth(names: Iterable[str], pattern: str) -> int:
    """1 + the largest number that `pattern`'s one group finds at the start of a name, 0 where none does."""
    return max((int(match[1]) + 1 for name in names if (match := re.match(pattern, name))), default=0)


def collect(
    found: Mapping[str, np.ndarray], table: Mapping[str, str], source: str, ignore: str = r"(?!)"
) -> dict[str, np.ndarray]:
    """Canonical name -> foreign array, by `table`.

    Args:
        found: foreign name -> array.
        table: canonical name -> foreign name; several may share one.
        source: names the checkpoint in errors.
        ignore: regular expression of foreign names that hold no parameter.

    Raises:
        CheckpointError: lists missing and unexpected foreign names.
    """
    wanted = set(table.values())
    unexpected = tuple(n for n in found if n not in wanted and not re.fullmatch(ignore, n))
    missing = tuple(dict.fromkeys(n for n in table.values() if n not in found))
    KeyReport(missing=missing, unexpected=unexpected).require_empty(source)
    return {name: found[foreign] for name, foreign in table.items()}


def fold_bottleneck(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    """Weights with the token table and its bottleneck projection multiplied out to a full table (V, d)."""
    weights = dict(checkpoint.weights)
    projection = weights.pop("text/token_embedding/projection", None)
    if projection is not None:
        table = weights["text/token_embedding/embedding"]
        weights["text/token_embedding/embedding"] = (table @ projection).astype(np.float32)
    return weights


def require_two_towers(checkpoint: Checkpoint, format: str, pools: Sequence[str] = ("map",)) -> None:
    """Raises a ValueError that says why `format` cannot hold the checkpoint, if so."""
    if checkpoint.towers != ("image", "text"):
        raise ValueError(f"{format} holds both towers; this checkpoint has {', '.join(checkpoint.towers)} alone.")
    pool = arch.infer(checkpoint.weights, checkpoint.architecture.get("image_size"))["image_pool"]
    if pool not in pools:
        raise ValueError(f"{format} has no image tower with pool {pool!r}, only {', '.join(map(repr, pools))}.")
