"""The common form of all checkpoint formats: named arrays, an architecture, and a preprocessing."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np


class CheckpointError(ValueError):
    """Raised if a file is not a checkpoint, or its weights do not fit together. The message says what to do."""


@dataclasses.dataclass(frozen=True)
class KeyReport:
    """The differences between the keys of a checkpoint and those of its architecture. It is false if there are none.

    Attributes:
        missing: names that the architecture has and the checkpoint does not.
        unexpected: names that the checkpoint has and the architecture does not.
        misshapen: the shape found and the shape expected, by name.
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
        """Raises a `CheckpointError` that lists the differences, if any, so that nothing is loaded partially."""
        if self:
            raise CheckpointError(f"{source} does not hold the weights of one model:\n{self}")


def check_calibration(calibration: Any) -> None:
    """Raises a `CheckpointError` if a calibration is neither None nor valid.

    A valid calibration is {"threshold": p, "labels": {label: p}, ...} with p from 0 to 1. A pair counts as a match if
    its probability is at least the threshold. A label may have its own threshold.
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
    """A model's weights and configuration, independent of the file format.

    Attributes:
        architecture: arguments of `siglip_tf.SigLIP`. For a single image tower, those of the text tower are absent.
        weights: float32 arrays of one or both towers, by canonical name.
        preprocessing: `siglip_tf.data.Preprocessing.to_config()`, or None if the checkpoint does not describe it.
        format: "native", "big_vision", "hugging_face", "keras_hub", or "augreg".
        tokenizer: the bytes of the SentencePiece model, or None.
        source: the path from which the checkpoint was read.
        calibration: the result of `tools.calibrate`, or None. See `check_calibration`.
        notes: decisions and changes of the reader, such as a guessed resolution, a widened dtype, or ignored keys.
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
        """The towers that the checkpoint has: ("image", "text"), or one of them."""
        return tuple(t for t in ("image", "text") if any(n.startswith(f"{t}/") for n in self.weights))

    def parameter_count(self, prefix: str = "") -> int:
        """Returns the number of parameters in weights whose name starts with `prefix`."""
        return sum(int(np.prod(w.shape)) for n, w in self.weights.items() if n.startswith(prefix))
