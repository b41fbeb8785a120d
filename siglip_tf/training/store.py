"""A folder of checkpoints, one per step. Writes are atomic, incomplete checkpoints are found, and old ones removed."""

import contextlib
import json
import re
from collections.abc import Callable

import tensorflow as tf

from siglip_tf.storage import is_object_store, require_space

_STEP = re.compile(r"^step_(\d{9})$")
_MARKER = "complete.json"
_WRITING = ".writing"
_DELETING = ".deleting"


class CheckpointStore:
    """Checkpoints of one run, one folder per step.

    A local folder is written under another name, and renamed when it is complete. Object stores such as `gs://` cannot
    rename a folder in one step; there, the marker, which lists the files and their sizes, is written last. In both
    cases, a checkpoint without a marker that matches its files is incomplete and is never read.

    Args:
        directory: a local folder or any address that `tf.io.gfile` supports.
        keep_last: how many of the newest checkpoints to keep, >= 1.
        keep_every: a checkpoint whose step is a multiple of this number is never removed. None removes them all.

    Raises:
        ValueError: if a number is below 1.
    """

    def __init__(self, directory: str, keep_last: int = 3, keep_every: int | None = None):
        if keep_last < 1:
            raise ValueError(
                f"Expected keep_last >= 1, or a crash in the next write would lose everything. Received: {keep_last}"
            )
        if keep_every is not None and keep_every < 1:
            raise ValueError(f"Expected keep_every >= 1 or None. Received: {keep_every}")
        self.directory = str(directory)
        self.keep_last = keep_last
        self.keep_every = keep_every
        self._renames = not is_object_store(self.directory)

    def path(self, step: int) -> str:
        """The folder of a step's checkpoint, whether or not it exists."""
        return tf.io.gfile.join(self.directory, f"step_{step:09d}")

    def steps(self) -> list[int]:
        """Returns the steps that have a folder, complete or not, oldest first."""
        if not tf.io.gfile.isdir(self.directory):
            return []
        names = (name.rstrip("/") for name in tf.io.gfile.listdir(self.directory))
        return sorted(int(match[1]) for name in names if (match := _STEP.match(name)))

    def fault(self, step: int) -> str | None:
        """What the marker says is wrong with a step's checkpoint, or None."""
        return marker_fault(self.path(step))

    def begin(self, step: int, needed: int = 0, more: str = "") -> str:
        """Creates an empty folder for a step's files, and returns it. Call `commit` when the files are written.

        Args:
            step: the checkpoint's step.
            needed: how many bytes will be written.
            more: a sentence to add to the error message if the disk is full.

        Raises:
            StorageError: if the disk has fewer bytes free.
        """
        require_space(self.directory, needed, more)
        target = self.path(step) if not self._renames else self.path(step) + _WRITING
        if tf.io.gfile.isdir(target):
            self._remove(target)
        tf.io.gfile.makedirs(target)
        return target

    def commit(self, step: int) -> str:
        """Marks what was written since `begin` as complete, removes old checkpoints, and returns the step's folder."""
        written = self.path(step) if not self._renames else self.path(step) + _WRITING
        write_marker(written, step)
        if self._renames:
            if tf.io.gfile.isdir(self.path(step)):
                self._remove(self.path(step))
            tf.io.gfile.rename(written, self.path(step))
        self.prune()
        return self.path(step)

    def discard(self) -> None:
        """Removes what was written since `begin`. Call it after a failure, so that a full disk does not stay full."""
        if self._renames:
            with contextlib.suppress(tf.errors.OpError, OSError):
                self.sweep()

    def prune(self) -> list[int]:
        """Removes the complete checkpoints that `keep_last` and `keep_every` do not keep, and returns their steps."""
        whole = [step for step in self.steps() if self.fault(step) is None]
        removed = [
            step for step in whole[: -self.keep_last] if self.keep_every is None or step % self.keep_every or step == 0
        ]
        for step in removed:
            self._remove(self.path(step))
        return removed

    def sweep(self) -> None:
        """Removes what a killed process left half written or half deleted. Only the folder's owner may call this."""
        if not tf.io.gfile.isdir(self.directory):
            return
        for name in tf.io.gfile.listdir(self.directory):
            if name.rstrip("/").endswith((_WRITING, _DELETING)):
                tf.io.gfile.rmtree(tf.io.gfile.join(self.directory, name.rstrip("/")))

    def newest(
        self, say: Callable[[str], None] = print, usable: Callable[[str], str | None] | None = None
    ) -> int | None:
        """Returns the newest step with a complete checkpoint, or None.

        Args:
            say: a function that receives a message for every bad checkpoint that is skipped.
            usable: a further check of a folder, such as reading every tensor. It returns an error message or None.
        """
        for step in reversed(self.steps()):
            fault = self.fault(step) or (usable and usable(self.path(step)))
            if not fault:
                return step
            say(f"Skipped the checkpoint {self.path(step)}: {fault}.")
        return None

    def _remove(self, path: str) -> None:
        # A half-deleted checkpoint has no marker or another name, so nothing mistakes it for a complete one.
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
    """What the marker of a checkpoint's folder says is wrong with it, or None."""
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


def find_checkpoint(path: str, say: Callable[[str], None], usable: Callable[[str], str | None]) -> str:
    """Finds a checkpoint's folder.

    Args:
        path: the checkpoint's folder, a run's folder, or a folder of checkpoints.
        say: a function that receives a message for every bad checkpoint that is skipped.
        usable: as in `CheckpointStore.newest`.

    Raises:
        ValueError: if there is no good checkpoint.
    """
    path = str(path).rstrip("/")
    if not tf.io.gfile.isdir(path):
        raise ValueError(f"Expected resume_from to be the folder of a checkpoint or a run. {path!r} does not exist.")
    if tf.io.gfile.exists(tf.io.gfile.join(path, "state.json")):
        if fault := marker_fault(path) or usable(path):
            raise ValueError(f"The checkpoint {path} cannot be used: {fault}.")
        return path
    for folder in (tf.io.gfile.join(path, "checkpoints"), path):
        store = CheckpointStore(folder)
        step = store.newest(say, usable)
        if step is not None:
            return store.path(step)
    raise ValueError(f"There is no good checkpoint in resume_from={path!r}.")
