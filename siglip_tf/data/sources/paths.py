"""Names of shards: globs, brace ranges and lists, on any file system that TensorFlow reads."""

import io
import re
from collections.abc import Sequence
from typing import Any, BinaryIO

import tensorflow as tf

_BRACES = re.compile(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}")


def is_remote(path: str) -> bool:
    """Whether a path is on a file system of TensorFlow's other than the local disk (`gs://`, `hdfs://`, `ram://`)."""
    return "://" in path and not path.startswith("file://")


def join(folder: str, name: str) -> str:
    """`folder/name`, whatever file system the folder is on."""
    return folder.rstrip("/") + "/" + name


class _RawFile(io.RawIOBase):
    """A file of TensorFlow's with all that Python's have: `tf.io.gfile.GFile` lacks `closed` and `readinto`."""

    def __init__(self, path: str):
        super().__init__()
        self._file = tf.io.gfile.GFile(path, "rb")
        self._size = self._file.size()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(min(len(buffer), self._size - self._file.tell()))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._file.tell(), io.SEEK_END: self._size}[whence]
        self._file.seek(min(start + offset, self._size))
        return self._file.tell()

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def open_binary(path: str) -> BinaryIO:
    """A file on any file system, as Python's `open(path, "rb")` would give it."""
    return io.BufferedReader(_RawFile(path)) if is_remote(path) else open(path.removeprefix("file://"), "rb")


def expand_braces(pattern: str) -> list[str]:
    """`a{00..02}.tar` and `{a,b}.tar` written out, as the webdataset library reads them."""
    match = _BRACES.search(pattern)
    if match is None:
        return [pattern]
    first, last, choices = match.groups()
    if choices is not None:
        values = choices.split(",")
    else:
        width = len(first) if first.startswith("0") or len(first) == len(last) else 0
        values = [str(number).zfill(width) for number in range(int(first), int(last) + 1)]
    return [
        name for value in values for name in expand_braces(pattern[: match.start()] + value + pattern[match.end() :])
    ]


def find_shards(shards: str | Sequence[str], suffix: str) -> list[str]:
    """Paths of shards in a fixed order: sorted within each pattern.

    Args:
        shards: a path, a glob (`*`, `?`), a brace range (`{00000..00041}`), a folder of files that end in `suffix`, or
            a list of these.
        suffix: what the shards of a folder end in, e.g. ".tar".

    Raises:
        ValueError: nothing matches, or a name comes twice.
    """
    paths: list[str] = []
    for pattern in [shards] if isinstance(shards, str) else shards:
        if tf.io.gfile.isdir(pattern):
            found = sorted(tf.io.gfile.glob(join(pattern, "*" + suffix)))
        else:
            names = expand_braces(str(pattern))
            found = [
                path for name in names for path in (sorted(tf.io.gfile.glob(name)) if set(name) & {*"*?["} else [name])
            ]
        missing = [path for path in found if not tf.io.gfile.exists(path)] if len(found) < 64 else []
        if not found or missing:
            what = f"{missing[0]} is not there" if missing else f"no file matches, nor ends in {suffix!r} in a folder"
            raise ValueError(f"Expected the paths of shards. Received: {pattern!r}: {what}.")
        paths.extend(found)
    if len(set(paths)) < len(paths):
        twice = next(path for path in paths if paths.count(path) > 1)
        raise ValueError(f"{twice} comes twice in {shards!r}.")
    return paths
