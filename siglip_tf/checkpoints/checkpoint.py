"""What every checkpoint format is translated to: named arrays, an architecture and a preprocessing."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np


class CheckpointError(ValueError):
    """A file that is not a checkpoint, or one whose weights do not fit together. The message says what to do."""


@dataclasses.dataclass(frozen=True)
class KeyReport:
    """How the keys of a checkpoint differ from those of its architecture; falsy when nothing differs.

    Attributes:
        missing: names that the architecture needs and the checkpoint lacks.
        unexpected: names that the checkpoint holds and the architecture has no place for.
        misshapen: name -> (shape found, shape expected).
    """

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    misshapen: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]] = dataclasses.field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.misshapen)

    def __str__(self) -> str:
        lines = []
        for title, rows in (
            ("missing", list(self.missing)),
            ("unexpected", list(self.unexpected)),
            ("misshapen", [f"{n}: {found}, expected {wanted}" for n, (found, wanted) in self.misshapen.items()]),
        ):
            shown = [f"  {row}" for row in rows[:20]] + ([f"  ... and {len(rows) - 20} more"] if len(rows) > 20 else [])
            lines += [f"{title} ({len(rows)}):", *shown] if rows else []
        return "\n".join(lines) or "every key fits"

    def require_empty(self, source: str) -> None:
        """Raises a `CheckpointError` that lists every differing key, so that nothing is loaded partially."""
        if self:
            raise CheckpointError(f"{source} does not hold the weights of one model:\n{self}")


def check_calibration(calibration: Any) -> None:
    """Raises a `CheckpointError` unless the calibration is None or of the form that thresholds are read from.

    That is {"threshold": p, "labels": {label: p}, ...} with p in 0..1: a pair counts as a match from that probability
    on; labels may have a threshold of their own.
    """
    if calibration is None:
        return
    labels = calibration.get("labels", {}) if isinstance(calibration, Mapping) else None
    values = [calibration.get("threshold"), *labels.values()] if isinstance(labels, Mapping) else [None]
    if not all(isinstance(p, int | float) and not isinstance(p, bool) and 0 <= p <= 1 for p in values):
        raise CheckpointError(
            "Expected a calibration with a threshold in 0..1, and labels with one each. "
            f"Received: {str(calibration)[:200]}."
        )


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A model as numbers, independent of the format it came in.

    Attributes:
        architecture: arguments of `siglip_tf.SigLIP`; those of the text tower are absent with an image tower alone.
        weights: canonical name -> array, float32; of one tower or both.
        preprocessing: `siglip_tf.data.Preprocessing.to_config()`, or None if the checkpoint says nothing of it.
        format: "native", "big_vision", "hugging_face", "keras_hub" or "augreg".
        tokenizer: bytes of the SentencePiece model, or None.
        source: where it was read from.
        calibration: None, or what `tools.calibrate` fitted; see `check_calibration`.
        notes: what the reader had to decide or change (a guessed resolution, a widened dtype, keys left out).
    """

    architecture: dict[str, Any]
    weights: dict[str, np.ndarray]
    preprocessing: dict[str, Any] | None = None
    format: str = "native"
    tokenizer: bytes | None = None
    source: str = ""
    calibration: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()

    @property
    def towers(self) -> tuple[str, ...]:
        """("image", "text"), or the one tower that is there."""
        return tuple(t for t in ("image", "text") if any(n.startswith(f"{t}/") for n in self.weights))

    def parameter_count(self, prefix: str = "") -> int:
        """Number of weights whose name starts with `prefix`, "" for all of them."""
        return sum(int(np.prod(w.shape)) for n, w in self.weights.items() if n.startswith(prefix))
