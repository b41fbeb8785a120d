"""Names of shards: kinds, globs, brace ranges, and lists, on any file system that TensorFlow reads."""

import io
import os
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, BinaryIO

import tensorflow as tf

# The suffixes of each kind of shard.
SHARD_SUFFIXES = {
    "tar": (".tar",),
    "tfrecord": (".tfrecord", ".tfrecords", ".tfrec"),
    "parquet": (".parquet", ".pq"),
}
_ARCHIVES = (
    ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tfrecord.gz", ".tfrecords.gz", ".tfrec.gz",
    ".tfrecord.zlib", ".parquet.gz", ".zip", ".7z", ".rar",
)  # fmt: skip
# Some programs number shards after the suffix: x.tfrecord-00000-of-00010.
_NUMBER = re.compile(r"-\d+-of-\d+")
REMOTE_BLOCK = 4 << 20
_BRACES = re.compile(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}")


def is_remote(path: str) -> bool:
    """Says whether a path is on a TensorFlow file system other than the local disk (`gs://`, `hdfs://`, `ram://`)."""
    return "://" in path and not path.startswith("file://")


def join(folder: str, name: str) -> str:
    """Returns `folder/name`, for any file system."""
    return folder.rstrip("/") + "/" + name


class _RawFile(io.RawIOBase):
    """Makes a TensorFlow file a full Python file: `tf.io.gfile.GFile` lacks `closed` and `readinto`."""

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


def list_folder(folder: str) -> list[str]:
    """Lists the names in a folder, without those that begin with a dot.

    A local folder is listed by `os.listdir`, because `tf.io.gfile.listdir` raises a UnicodeDecodeError if a single name
    is not UTF-8.
    """
    names = tf.io.gfile.listdir(folder) if is_remote(folder) else os.listdir(folder.removeprefix("file://"))
    return [name.rstrip("/") for name in names if not name.startswith(".")]


def open_binary(path: str) -> BinaryIO:
    """Opens a file on any file system like Python's `open(path, "rb")`.

    Remote files are read in blocks of `REMOTE_BLOCK` bytes, because a request for each small read would take longer.
    """
    if not is_remote(path):
        return open(path.removeprefix("file://"), "rb")
    return io.BufferedReader(_RawFile(path), REMOTE_BLOCK)


def expand_braces(pattern: str) -> list[str]:
    """Expands `a{00..02}.tar` and `{a,b}.tar` as the webdataset library does."""
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


def shard_kind(name: str) -> str | None:
    """Returns "tar", "tfrecord", or "parquet" for a file's name in any case, or None if it is not a shard's.

    `x.tfrecord`, `x.tfrecords`, `x.tfrec`, and `x.tfrecord-00000-of-00010` are TFRecord files.
    """
    name = _numberless(name)
    return next((kind for kind, suffixes in SHARD_SUFFIXES.items() if name.endswith(suffixes)), None)


def archive_of(name: str) -> str | None:
    """Returns the suffix of a compressed file's name (`.tar.gz`, `.zip`, `.tfrecord.gz`), or None."""
    name = _numberless(name)
    return next((suffix for suffix in _ARCHIVES if name.endswith(suffix)), None) if name.endswith(_ARCHIVES) else None


def _numberless(name: str) -> str:
    name = name.rpartition("/")[2].lower()
    return _NUMBER.sub("", name) if "-of-" in name else name


def find_shards(shards: str | Sequence[str], suffix: str) -> list[str]:
    """Finds the paths of shards. The order is fixed: paths are sorted within each pattern.

    Args:
        shards: a path, a glob (`*`, `?`), a brace range (`{00000..00041}`), a folder of shards, or a list of these.
        suffix: the suffix of the shards in a folder. One of `SHARD_SUFFIXES` stands for all suffixes of its kind.

    Raises:
        ValueError: nothing matches, a file is compressed, or a path occurs twice.
    """
    kind = shard_kind("x" + suffix)
    paths: list[str] = []
    for pattern in [shards] if isinstance(shards, str) else shards:
        pattern = str(pattern)
        if tf.io.gfile.isdir(pattern):
            names = list_folder(pattern)
            found = [
                join(pattern, name)
                for name in sorted(names)
                if (name.endswith(suffix) if kind is None else shard_kind(name) == kind)
            ]
            compressed = [] if found else [name for name in names if archive_of(name)]
        else:
            names = expand_braces(pattern)
            found = [
                path for name in names for path in (sorted(tf.io.gfile.glob(name)) if set(name) & {*"*?["} else [name])
            ]
            compressed = [path for path in found if archive_of(path)]
        if compressed:
            raise ValueError(
                f"{compressed[0]} is compressed: its records cannot be addressed. Decompress it first. "
                f"Received: {pattern!r}"
            )
        missing = [path for path in found if not tf.io.gfile.exists(path)] if len(found) < 64 else []
        if not found or missing:
            wanted = " or ".join(map(repr, SHARD_SUFFIXES.get(kind or "", (suffix,))))
            what = f"{missing[0]} does not exist" if missing else f"no file matches, or no file there ends in {wanted}"
            raise ValueError(f"Expected the paths of shards. Received: {pattern!r}: {what}.")
        paths.extend(found)
    if len(set(paths)) < len(paths):
        twice = next(path for path, count in Counter(paths).items() if count > 1)
        raise ValueError(f"{twice} occurs twice in {shards!r}.")
    return paths


def shards_name(shards: str | Sequence[str], paths: Sequence[str]) -> str:
    """Returns the name of a list of shards in reports."""
    return shards if isinstance(shards, str) else f"{paths[0]} and {len(paths) - 1} more"
