"""A folder of checkpoints by step: written aside and renamed, torn ones told from whole ones, old ones pruned."""

import json
import re
from collections.abc import Callable

import tensorflow as tf

_STEP = re.compile(r"^step_(\d{9})$")
_MARKER = "complete.json"
_WRITING = ".writing"
_DELETING = ".deleting"


class CheckpointStore:
    """Checkpoints of one run, one folder a step.

    A local folder is written under another name and renamed when all its files are there. Object stores such as `gs://`
    cannot rename a folder at once: there the marker that lists the files and their sizes is written last. Either way a
    checkpoint without a marker that agrees with its files is torn and never read.

    Args:
        directory: local folder or any address that `tf.io.gfile` knows.
        keep_last: how many of the newest checkpoints stay, >= 1.
        keep_every: checkpoints whose step is a multiple of this stay for ever, or None.

    Raises:
        ValueError: for numbers below 1.
    """

    def __init__(self, directory: str, keep_last: int = 3, keep_every: int | None = None):
        if keep_last < 1:
            raise ValueError(
                f"Expected keep_last >= 1, or a crash in the next write would lose all. Received: {keep_last}"
            )
        if keep_every is not None and keep_every < 1:
            raise ValueError(f"Expected keep_every >= 1 or None. Received: {keep_every}")
        self.directory = str(directory)
        self.keep_last = keep_last
        self.keep_every = keep_every
        self._renames = "://" not in self.directory

    def path(self, step: int) -> str:
        """The folder of a step's checkpoint, whether it is there or not."""
        return tf.io.gfile.join(self.directory, f"step_{step:09d}")

    def steps(self) -> list[int]:
        """Steps that have a folder, whole or torn, oldest first."""
        if not tf.io.gfile.isdir(self.directory):
            return []
        names = (name.rstrip("/") for name in tf.io.gfile.listdir(self.directory))
        return sorted(int(match[1]) for name in names if (match := _STEP.match(name)))

    def fault(self, step: int) -> str | None:
        """What is wrong with a step's checkpoint by its marker, or None."""
        return marker_fault(self.path(step))

    def begin(self, step: int) -> str:
        """Makes an empty folder to write a step's files into, and returns it; `commit` makes it count."""
        target = self.path(step) if not self._renames else self.path(step) + _WRITING
        if tf.io.gfile.isdir(target):
            self._remove(target)
        tf.io.gfile.makedirs(target)
        return target

    def commit(self, step: int) -> str:
        """Marks what was written since `begin` as whole, prunes old checkpoints and returns the step's folder."""
        written = self.path(step) if not self._renames else self.path(step) + _WRITING
        write_marker(written, step)
        if self._renames:
            if tf.io.gfile.isdir(self.path(step)):
                self._remove(self.path(step))
            tf.io.gfile.rename(written, self.path(step))
        self.prune()
        return self.path(step)

    def prune(self) -> list[int]:
        """Removes whole checkpoints that `keep_last` and `keep_every` do not hold, and returns their steps."""
        whole = [step for step in self.steps() if self.fault(step) is None]
        removed = [
            step for step in whole[: -self.keep_last] if self.keep_every is None or step % self.keep_every or step == 0
        ]
        for step in removed:
            self._remove(self.path(step))
        return removed

    def discard_after(self, step: int) -> list[int]:
        """Removes checkpoints later than a step (another past than the one trained on from there)."""
        later = [other for other in self.steps() if other > step]
        for other in later:
            self._remove(self.path(other))
        return later

    def sweep(self) -> None:
        """Removes what a killed process left half written or half deleted. Only the one writer may call it."""
        if not tf.io.gfile.isdir(self.directory):
            return
        for name in tf.io.gfile.listdir(self.directory):
            if name.rstrip("/").endswith((_WRITING, _DELETING)):
                tf.io.gfile.rmtree(tf.io.gfile.join(self.directory, name.rstrip("/")))

    def newest(
        self, say: Callable[[str], None] = print, usable: Callable[[str], str | None] | None = None
    ) -> int | None:
        """The newest step whose checkpoint is whole, or None.

        Args:
            say: told about every torn checkpoint that is passed over.
            usable: a further check of a folder that returns what is wrong or None, such as reading every tensor.
        """
        for step in reversed(self.steps()):
            fault = self.fault(step) or (usable and usable(self.path(step)))
            if not fault:
                return step
            say(f"Skipped the checkpoint {self.path(step)}: {fault}.")
        return None

    def _remove(self, path: str) -> None:
        # Without its marker (or under another name) a half deleted checkpoint is never taken for a whole one.
        if self._renames:
            aside = path + _DELETING
            if tf.io.gfile.exists(aside):
                tf.io.gfile.rmtree(aside)
            tf.io.gfile.rename(path, aside)
            path = aside
        elif tf.io.gfile.exists(tf.io.gfile.join(path, _MARKER)):
            tf.io.gfile.remove(tf.io.gfile.join(path, _MARKER))
        tf.io.gfile.rmtree(path)


def write_marker(path: str, step: int) -> None:
    """Writes the marker that lists a folder's files and sizes."""
    files = {name: tf.io.gfile.stat(tf.io.gfile.join(path, name)).length for name in tf.io.gfile.listdir(path)}
    with tf.io.gfile.GFile(tf.io.gfile.join(path, _MARKER), "w") as file:
        file.write(json.dumps({"step": step, "files": files}, indent=1))


def marker_fault(path: str) -> str | None:
    """What is wrong with a checkpoint's folder by its marker, or None."""
    marker = tf.io.gfile.join(path, _MARKER)
    if not tf.io.gfile.exists(marker):
        return f"it has no {_MARKER}, its writer did not finish"
    with tf.io.gfile.GFile(marker, "r") as file:
        text = file.read()
    try:
        files = json.loads(text)["files"]
    except (ValueError, KeyError, TypeError):
        return f"its {_MARKER} is torn"
    for name, size in files.items():
        file = tf.io.gfile.join(path, name)
        if not tf.io.gfile.exists(file):
            return f"its file {name} is missing"
        if (found := tf.io.gfile.stat(file).length) != size:
            return f"its file {name} has {found:,} bytes of {size:,}"
    return None
