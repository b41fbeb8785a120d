"""Helpers for renaming weights. One table from canonical names to a format's names serves for reading and writing."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from siglip_tf.checkpoints import architecture as arch
from siglip_tf.checkpoints.checkpoint import Checkpoint, KeyReport

Rename = Callable[[str], str]


def canonical_names(
    image_depth: int | None,
    image_pool: str = "map",
    text_depth: int | None = None,
    *,
    head: bool = True,
    bias: bool = True,
) -> list[str]:
    """Returns the names of all weights of a model, in order. A tower is absent if its depth is None."""
    any_size = ("width", "mlp_dim", "heads", "depth")
    dimensions: dict[str, Any] = {}
    if image_depth is not None:
        dimensions |= {f"image_{key}": 1 for key in any_size} | {"patch_size": 1, "image_size": 1}
        dimensions |= {"image_depth": image_depth, "image_pool": image_pool}
    if text_depth is not None:
        dimensions |= {f"text_{key}": 1 for key in any_size} | {"text_length": 1, "vocab_size": 1, "embed_dim": 1}
        dimensions |= {"text_depth": text_depth, "token_bottleneck": None, "text_head": head, "has_bias": bias}
    return list(arch.expected_shapes(dimensions))


def rename_by(rules: Sequence[tuple[str, str]]) -> Rename:
    """Returns a function that renames by regular expressions, which it applies one after another to the whole name."""
    compiled = [(re.compile(pattern), replacement) for pattern, replacement in rules]

    def rename(name: str) -> str:
        for pattern, replacement in compiled:
            name = pattern.sub(replacement, name)
        return name

    return rename


def depth(names: Iterable[str], pattern: str) -> int:
    """Returns 1 + the largest number that the group of `pattern` finds at the start of a name, or 0 if none matches."""
    return max((int(match[1]) + 1 for name in names if (match := re.match(pattern, name))), default=0)


def collect(
    found: Mapping[str, np.ndarray], table: Mapping[str, str], source: str, ignore: str = r"(?!)"
) -> dict[str, np.ndarray]:
    """Returns the arrays of a checkpoint by canonical name.

    Args:
        found: the arrays by the format's names.
        table: the format's names by canonical name. Several canonical names may share one.
        source: the name of the checkpoint in errors.
        ignore: a regular expression for names of arrays that are not parameters.

    Raises:
        CheckpointError: if names are missing or unexpected. The message lists them.
    """
    wanted = set(table.values())
    unexpected = tuple(n for n in found if n not in wanted and not re.fullmatch(ignore, n))
    missing = tuple(dict.fromkeys(n for n in table.values() if n not in found))
    KeyReport(missing=missing, unexpected=unexpected).require_empty(source)
    return {name: found[foreign] for name, foreign in table.items()}


def fold_bottleneck(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    """Returns the weights with the token table and its bottleneck projection multiplied to a full table (V, d)."""
    weights = dict(checkpoint.weights)
    projection = weights.pop("text/token_embedding/projection", None)
    if projection is not None:
        table = weights["text/token_embedding/embedding"]
        weights["text/token_embedding/embedding"] = (table @ projection).astype(np.float32)
    return weights


def as_siglip_of_others(checkpoint: Checkpoint, format: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Returns equivalent weights in the form that Hugging Face and KerasHub share, and their dimensions.

    A token bottleneck is multiplied out, an absent text head becomes the identity, and an absent bias becomes 0.

    Raises:
        ValueError: if `format` cannot express the checkpoint. The message says why.
    """
    if checkpoint.towers != ("image", "text"):
        raise ValueError(f"{format} holds both towers; this checkpoint has {', '.join(checkpoint.towers)} alone.")
    weights = fold_bottleneck(checkpoint)
    if "text/head/kernel" not in weights:
        width = weights["text/final_norm/scale"].shape[0]
        weights["text/head/kernel"] = np.eye(width, dtype=np.float32)
        weights["text/head/bias"] = np.zeros(width, np.float32)
    weights.setdefault("bias", np.zeros((), np.float32))
    a = checkpoint.architecture
    dimensions = arch.infer(weights, a.get("image_size"), max_patches=a.get("max_patches"))
    if dimensions["image_pool"] != "map":
        raise ValueError(f"{format} has no image tower with pool {dimensions['image_pool']!r}, only 'map'.")
    if not isinstance(dimensions["image_size"], int):
        raise ValueError(f"{format} takes square images; this model takes {dimensions['image_size']}.")
    return weights, dimensions
