"""What determines the global sequence of batches. Checks that a coordinator and its input processes agree on it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from siglip_tf.data.order.position import check_one_kernel
from siglip_tf.version import __version__

# What an error calls the parts of an identity.
_NAMES = {
    "version": "version of siglip_tf",
    "tensorflow": "TensorFlow",
    "data": "data (its fingerprint)",
    "seed": "seed",
    "global_batch": "global batch",
    "streams": "streams",
    "preprocessing": "preprocessing (its digest)",
    "settings": "settings of batches",
}


def identity(data: Any) -> dict[str, Any]:
    """Returns, as plain JSON, all that determines the global batches of `TrainingData` or `EmbeddingData`."""
    source = getattr(data, "mixture", None) or data.stored
    preprocessing = getattr(data, "preprocessing", None)
    config = None if preprocessing is None else preprocessing.to_config()
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=repr).encode()).hexdigest()
    return {
        "version": __version__,
        "tensorflow": tf.__version__,
        "data": source.fingerprint,
        "seed": data.seed,
        "global_batch": data.global_batch,
        "streams": data.streams,
        "preprocessing": None if config is None else digest[:16],
        "settings": json.loads(json.dumps(data.batch_settings())) if hasattr(data, "batch_settings") else None,
    }


def check_same(address: str, theirs: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Refuses an input process that makes other batches than the coordinator trains on.

    Raises:
        ValueError: they differ; the message names the first difference and both values.
    """
    for key, name in _NAMES.items():
        if theirs.get(key) != own[key]:
            raise ValueError(
                f"The input process at {address} makes other batches: its {name} is {theirs.get(key)!r}, the "
                f"coordinator's {own[key]!r}. Start both with the same recipe, settings and data."
            )


def check_workers(described: Sequence[Mapping[str, Any]]) -> None:
    """Refuses workers of one run that would make batches of different runs.

    Args:
        described: for each worker its "host", its "identity" (see `identity`), and "resize", the kernel that resizes
            its pictures.

    Raises:
        ValueError: they differ; the message names the first difference, the workers, and both values.
    """
    names = [f"worker {number} ({each['host']})" for number, each in enumerate(described)]
    for key, name in _NAMES.items():
        values = [each["identity"][key] for each in described]
        other = next((number for number, value in enumerate(values) if value != values[0]), None)
        if other is not None:
            raise ValueError(
                f"Expected all workers to have the same {name}. Received: {values[0]!r} on {names[0]}, "
                f"{values[other]!r} on {names[other]}. Start all of them with the same recipe, settings and data."
            )
    check_one_kernel(dict(zip(names, (each["resize"] for each in described), strict=True)))


def check_complete(described: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Checks that every share is made once, and returns the addresses in the order of their shares.

    Args:
        described: maps an address to the "index" and "count" of the share that the input process there makes.

    Raises:
        ValueError: a count is not the number of input processes, or two of them make the same share.
    """
    by_index: dict[int, str] = {}
    for address, share in described.items():
        if share["count"] != len(described):
            raise ValueError(
                f"The input process at {address} makes share {share['index']} of {share['count']}, but the coordinator "
                f"was given {len(described)} input processes. Start all of them with --count {len(described)}, or name "
                f"all {share['count']} of them."
            )
        other = by_index.setdefault(share["index"], address)
        if other != address:
            raise ValueError(
                f"The input processes at {other} and {address} both make share {share['index']} of {share['count']}. "
                "Start each with its own --index."
            )
    return [by_index[index] for index in sorted(by_index)]
