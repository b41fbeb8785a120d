"""`metrics.jsonl`: one JSON line for each step that is logged, on disks and in object stores.

On a disk, a line is appended to the file. An object store cannot append: every append would write the whole object
again. There, each line becomes an object of its own in `metrics.jsonl.parts`. The parts are joined when the run ends or
when the next process starts.
"""

import json
import math
from collections.abc import Collection, Mapping
from typing import Any

import tensorflow as tf

from siglip_tf.storage import explained, is_object_store, read_file, remove, write_file


class MetricsFile:
    """A `metrics.jsonl` that one process writes.

    Args:
        path: the file, local or `gs://`.
    """

    def __init__(self, path: str):
        self.path = path
        self._written = 0

    def begin(self, step: int, again: Collection[str] = ()) -> None:
        """Removes incomplete lines and the lines of steps after `step`, which are trained again.

        Args:
            step: the step at which the run continues.
            again: names of metrics that were measured again at that step. A line of that step with all of them is
                removed too.
        """
        kept = [line for line in read_metrics(self.path) if line["step"] <= step]
        kept = [line for line in kept if not again or line["step"] < step or not set(again) <= line.keys()]
        if kept or tf.io.gfile.exists(self.path):
            self._write_whole(kept)

    def append(self, line: Mapping[str, Any]) -> None:
        """Adds a line. A value that is not finite is written as null, so that every line is valid JSON."""
        values = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in line.items()}
        text = json.dumps(values) + "\n"
        if not is_object_store(self.path):
            with (
                explained(self.path, len(text)),
                open(self.path.removeprefix("file://"), "a", encoding="utf-8") as file,
            ):
                file.write(text)
            return
        self._written += 1
        write_file(f"{self.path}.parts/{line['step']:012d}-{self._written:06d}", text)

    def close(self) -> None:
        """Joins the parts into one file."""
        if is_object_store(self.path) and self._written:
            self._write_whole(read_metrics(self.path))

    def _write_whole(self, lines: list[dict[str, Any]]) -> None:
        write_file(self.path, "".join(json.dumps(line) + "\n" for line in lines))
        for part in _parts(self.path):
            remove(part)


def read_metrics(path: str) -> list[dict[str, Any]]:
    """Returns the complete lines of a `metrics.jsonl` file, or an empty list if there is no file.

    A process that was killed may leave an incomplete last line; it is left out.
    """
    path = str(path)
    lines = _lines(path)
    seen = {json.dumps(line) for line in lines}
    for part in _parts(path):
        lines += [line for line in _lines(part) if json.dumps(line) not in seen]
    return lines


def _lines(path: str) -> list[dict[str, Any]]:
    try:
        text = read_file(path).decode()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text.split("\n")[:-1] if line.endswith("}")]


def _parts(path: str) -> list[str]:
    folder = f"{path}.parts"
    if not is_object_store(path) or not tf.io.gfile.isdir(folder):
        return []
    return [f"{folder}/{name}" for name in sorted(tf.io.gfile.listdir(folder)) if not name.startswith(".")]
