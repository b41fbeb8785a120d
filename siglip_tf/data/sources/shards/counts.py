"""How many records each shard holds, from a file that its writer left beside it or from this package's own count.

    .index/counts/*.jsonl   this package's counts: lines of {"shard": "00000.tar", "records": 8612}, from
                            `siglip-tf count-shards`
    sizes.json              open_clip's: {"00000.tar": 8612}
    *.json with shardlist   the webdataset library's shard index: {"shardlist": [{"url", "nsamples"}]}
    00000_stats.json        img2dataset's: {"successes": 8612}

A count is checked when the shard is read.

Source: https://github.com/rom1504/img2dataset; https://github.com/webdataset/webdataset (wids)
"""

import concurrent.futures
import contextlib
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from siglip_tf.data.sources.paths import is_remote, join, list_folder, open_binary
from siglip_tf.storage import StorageError, write_file

_REMOTE_THREADS = 64
# Counts that were read from this many small files are kept in one file of this package's.
_WORTH_KEEPING = 100
_LARGEST_INDEX = 64 << 20


class ProgressLine:
    """Prints progress to stderr every two seconds: how many of `total` items are done, and how long the rest takes."""

    def __init__(self, what: str, total: int, verbose: bool = True):
        self._what = what
        self._total = total
        self._verbose = verbose
        self._begin = self._shown = time.monotonic()

    def show(self, done: int) -> None:
        """Prints a line every two seconds, and at the end if any line was printed before."""
        now = time.monotonic()
        last = done == self._total and self._shown > self._begin
        if self._verbose and (now - self._shown > 2 or last):
            self._shown = now
            left = (now - self._begin) / max(done, 1) * (self._total - done)
            print(f"{self._what}: {done}/{self._total}, {left:.0f} s left", file=sys.stderr, flush=True)


def find_counts(shards: Sequence[str], index_dir: str | None = None, verbose: bool = True) -> np.ndarray:
    """Finds the counts of shards.

    Args:
        shards: paths of shards.
        index_dir: folder of this package's own counts; by default `.index` beside the shards.
        verbose: whether to show progress while many small files are read.

    Returns:
        int64 (shards,): the count of each shard, or -1 if it is unknown.
    """
    counts = np.full(len(shards), -1, np.int64)
    folders: dict[str, list[int]] = {}
    for number, path in enumerate(shards):
        folders.setdefault(path.rpartition("/")[0] or ".", []).append(number)
    for folder, numbers in folders.items():
        names = {count_key(shards[number], index_dir): number for number in numbers}
        _take(counts, names, own_counts(folder, index_dir))
        if (counts[numbers] >= 0).all():
            continue
        names = {shards[number].rpartition("/")[2]: number for number in numbers}
        for found in _folder_counts(folder, len(names)):
            _take(counts, names, found)
        missing = [number for number in numbers if counts[number] < 0]
        found = _stats([shards[number] for number in missing], verbose)
        _take(counts, {shards[number]: number for number in missing}, found)
        if len(found) >= _WORTH_KEEPING:
            kept = {count_key(path, index_dir): count for path, count in found.items()}
            with contextlib.suppress(StorageError, tf.errors.OpError):
                keep_counts(folder, index_dir, kept)
    return counts


def count_key(path: str, index_dir: str | None) -> str:
    """Returns a shard's name in this package's counts. With an `index_dir` for several folders, it is the path."""
    return path if index_dir is not None else path.rpartition("/")[2]


def _take(counts: np.ndarray, names: Mapping[str, int], found: Mapping[str, Any]) -> None:
    for name, count in found.items():
        number = names.get(name)
        # A shard without records counts as one broken record.
        if number is not None and counts[number] < 0 and isinstance(count, int) and 0 <= count < 1 << 40:
            counts[number] = max(count, 1)


def _counts_folder(folder: str, index_dir: str | None) -> str:
    return join(index_dir or join(folder, ".index"), "counts")


def own_counts(folder: str, index_dir: str | None = None) -> dict[str, int]:
    """Reads this package's counts of a folder's shards. A damaged line is ignored, and its shard is counted again."""
    where = _counts_folder(folder, index_dir)
    if not tf.io.gfile.isdir(where):
        return {}
    parts = sorted(name for name in list_folder(where) if name.endswith(".jsonl"))
    counts: dict[str, int] = {}
    with concurrent.futures.ThreadPoolExecutor(_REMOTE_THREADS if is_remote(where) else 1) as pool:
        for data in pool.map(_content, [join(where, part) for part in parts]):
            counts.update(_parsed(data))
    return counts


def _parsed(data: bytes) -> dict[str, int]:
    lines = [line for line in data.split(b"\n") if line]
    try:  # Parse all lines at once, because there may be hundreds of thousands.
        return {entry["shard"]: int(entry["records"]) for entry in json.loads(b"[" + b",".join(lines) + b"]")}
    except (ValueError, KeyError, TypeError):
        counts = {}
        for line in lines:
            with contextlib.suppress(ValueError, KeyError, TypeError):
                entry = json.loads(line)
                counts[entry["shard"]] = int(entry["records"])
        return counts


def keep_counts(folder: str, index_dir: str | None, counts: Mapping[str, int]) -> None:
    """Adds counts to this package's own. A later count of the same shard replaces an earlier one.

    Raises:
        StorageError: the folder is not writable.
    """
    lines = "".join(json.dumps({"shard": name, "records": count}) + "\n" for name, count in counts.items())
    file = join(_counts_folder(folder, index_dir), f"{time.time_ns():020d}.jsonl")
    write_file(file, lines.encode(errors="surrogateescape"))


def _folder_counts(folder: str, shards: int) -> list[dict[str, Any]]:
    """Reads counts by shard name from files that describe the whole folder."""
    if shards > 1 and not tf.io.gfile.isdir(folder):
        return []
    names = ["sizes.json"]
    with contextlib.suppress(tf.errors.OpError, OSError):
        listed = [n for n in list_folder(folder) if n.endswith(".json") and not n.endswith("_stats.json")]
        names = [n for n in listed if not n[:-5].isdecimal()][:16]
    found = []
    for name in names:
        with contextlib.suppress(tf.errors.OpError, OSError, ValueError, RecursionError):
            if tf.io.gfile.stat(join(folder, name)).length > _LARGEST_INDEX:
                continue
            content = json.loads(_content(join(folder, name)))
            if isinstance(content, dict) and isinstance(content.get("shardlist"), list):
                entries = [entry for entry in content["shardlist"] if isinstance(entry, dict)]
                found.append({str(e.get("url", "")).rpartition("/")[2]: e.get("nsamples") for e in entries})
            elif isinstance(content, dict) and name == "sizes.json":
                found.append(content)
    return found


def _stats(paths: Sequence[str], verbose: bool) -> dict[str, int]:
    """Reads img2dataset's counts by shard path."""

    def successes(path: str) -> Any:
        folder, slash, name = path.rpartition("/")
        try:
            content = json.loads(_content(f"{folder}{slash}{name.partition('.')[0]}_stats.json"))
            return content.get("successes")
        except (tf.errors.OpError, OSError, ValueError, AttributeError, RecursionError):
            return None

    found = {}
    line = ProgressLine("Reading the counts of shards", len(paths), verbose)
    with concurrent.futures.ThreadPoolExecutor(_REMOTE_THREADS if paths and is_remote(paths[0]) else 1) as pool:
        for number, (path, count) in enumerate(zip(paths, pool.map(successes, paths), strict=True), 1):
            line.show(number)
            if isinstance(count, int):
                found[path] = count
    return found


def _content(path: str) -> bytes:
    # TensorFlow's file objects are ten times slower to open a local file.
    if not is_remote(path):
        with open(os.fspath(path.removeprefix("file://")), "rb") as file:
            return file.read()
    with open_binary(path) as file:
        return file.read()
