"""The folder of a run: the settings of the run that it holds, and the results when the run has finished."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

import tensorflow as tf

from siglip_tf.storage import write_file

_SETTINGS, _FIGURES = "settings.json", "figures.json"
# Settings that may differ when the same run continues.
_MAY_CHANGE = {
    "checkpoint_every", "keep_last", "keep_every", "log_every", "on_fault", "spike", "bad_record_limit", "data",
    "tokenizer", "start", "tower", "topology", "deterministic", "report", "tracker", "evaluate.tasks", "evaluate.every",
    "evaluate.metric", "evaluate.patience",
}  # fmt: skip


class RunFolder:
    """A run's folder, local or `gs://`.

    Args:
        path: the path of the folder.
        chief: whether this process writes the files that all workers share.
    """

    def __init__(self, path: str, chief: bool = True):
        self.path = path
        self._chief = chief

    def __truediv__(self, name: str) -> str:
        return f"{self.path}/{name}"

    def former(self) -> dict[str, Any] | None:
        """Returns the settings of the run that the folder holds, or None."""
        return self._read(_SETTINGS)

    def claim(self, values: Mapping[str, Any], may_change: Collection[str] = (), fresh: bool = False) -> None:
        """Writes the run's settings into its folder, or checks that the folder holds the same run.

        Args:
            values: the settings by dotted key.
            may_change: further keys that may differ.
            fresh: whether to delete the run in the folder and start again.

        Raises:
            ValueError: if the folder holds another run or, with `fresh`, something that is not a run.
        """
        before = self._read(_SETTINGS)
        if fresh and before is not None and self._chief:
            tf.io.gfile.rmtree(self.path)
            before = None
        values = json.loads(json.dumps(values))
        if before is not None:
            self._check_same(before, values, {*_MAY_CHANGE, *may_change})
            return
        if not self._chief:
            return
        if fresh and tf.io.gfile.exists(self.path) and tf.io.gfile.listdir(self.path):
            raise ValueError(f"{self.path} exists and holds no run: --fresh does not delete it. Name another --run.")
        self._write(_SETTINGS, values)

    def _check_same(self, before: Mapping[str, Any], values: Mapping[str, Any], may_change: Collection[str]) -> None:
        if "duration" not in before:
            raise ValueError(
                f"{self.path} holds a quickstart of an earlier version, whose settings have another form. Its "
                "checkpoint, SavedModel and report stay usable. To train again give --fresh, which deletes the "
                "folder, or name another one by --run."
            )
        # A setting that an earlier version did not have counts as unchanged.
        changed = [key for key in values if key in before and before[key] != values[key] and key not in may_change]
        if changed:
            key = changed[0]
            raise ValueError(
                f"{self.path} holds a run with another {key} ({before[key]}, now {values[key]}). Name another folder "
                "by --run, or give --fresh to delete that one."
            )

    def finished(self, steps: int) -> dict[str, Any] | None:
        """Returns what `finish` wrote if the run ended at this number of steps, else None."""
        figures = self._read(_FIGURES)
        return figures if figures is not None and figures.get("steps") == steps else None

    def finish(self, figures: Mapping[str, Any]) -> None:
        """Writes the results, which marks the run as finished."""
        if self._chief:
            self._write(_FIGURES, figures)

    def _read(self, name: str) -> dict[str, Any] | None:
        if not tf.io.gfile.exists(self / name):
            return None
        with tf.io.gfile.GFile(self / name) as file:
            text = file.read()
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{self / name} is damaged ({error}). Delete it, or name another folder by --run."
            ) from error

    def _write(self, name: str, value: Mapping[str, Any]) -> None:
        write_file(self / name, json.dumps(value, indent=1) + "\n")
