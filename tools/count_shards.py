"""Counts the records of shards whose counts no file contains, so that training starts at once.

    python -m tools.count_shards SOURCE [--workers N] [--index-dir DIR] [--again]

Training on remote shards needs the number of records in each. img2dataset's `_stats.json`, open_clip's `sizes.json`,
and the webdataset library's shard index contain it. This command counts the other shards and stores the counts in
`.index/counts` beside the shards. It reads several shards at once, saves its results every half minute, and continues
from there if it is started again. For example:

    python -m tools.count_shards "gs://bucket/laion/{00000..09999}.tar" --workers 32
    python -m tools.count_shards "gs://bucket/records/*.tfrecord" --index-dir gs://other/index
"""

import argparse
import concurrent.futures
import multiprocessing
import os
import sys
import time
from collections.abc import Iterable, Iterator

# TensorFlow reads this variable when it is imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import tensorflow as tf

from siglip_tf.data.sources.opening import shards_of
from siglip_tf.data.sources.paths import open_binary
from siglip_tf.data.sources.shards.counts import ProgressLine, count_key, find_counts, keep_counts
from siglip_tf.data.sources.shards.record_file import scan_records
from siglip_tf.data.sources.shards.tar_members import count_records

from .command import command_parser, exit_status
from .source_argument import SOURCE_HELP

_SECONDS_BETWEEN_WRITES = 30.0
# Fewer shards are counted by threads, because processes take seconds to start.
_WORTH_PROCESSES = 64


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    arguments = command_parser("count_shards", __doc__)
    arguments.add_argument("source", metavar="SOURCE", help=SOURCE_HELP)
    arguments.add_argument("--workers", type=int, default=os.cpu_count(), help="shards to read at once (%(default)s)")
    arguments.add_argument(
        "--index-dir", metavar="DIR", help="folder for the counts (default: .index beside the shards)"
    )
    arguments.add_argument("--again", action="store_true", help="count all shards again")
    return arguments


def count_shard(kind: str, path: str) -> int:
    """Returns the number of records in a shard, as the source of that kind counts them, or 1 for an empty shard.

    Raises:
        tf.errors.OpError, OSError: if the shard cannot be read.
    """
    with open_binary(path) as file:
        return max(count_records(file) if kind == "tar" else len(scan_records(file).rows), 1)


def _counted(kind: str, path: str) -> tuple[str, int | str]:
    try:
        return path, count_shard(kind, path)
    except (tf.errors.OpError, OSError) as error:
        return path, str(error).splitlines()[0]


def _counts(kind: str, paths: list[str], workers: int) -> Iterator[tuple[str, int | str]]:
    """Yields each shard with its count or its error message, in any order."""
    if len(paths) < _WORTH_PROCESSES or workers == 1:
        pool: concurrent.futures.Executor = concurrent.futures.ThreadPoolExecutor(workers)
    else:
        pool = concurrent.futures.ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"))
    with pool:
        waiting = iter(paths)
        running: set[concurrent.futures.Future] = set()
        try:
            while True:
                # Submit only a few at a time, so that an interrupt does not wait for all shards.
                while len(running) < 2 * workers and (path := next(waiting, None)) is not None:
                    running.add(pool.submit(_counted, kind, path))
                if not running:
                    return
                done, running = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
                yield from (future.result() for future in done)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _keep(index_dir: str | None, found: Iterable[tuple[str, int]]) -> None:
    by_folder: dict[str, dict[str, int]] = {}
    for path, count in found:
        by_folder.setdefault(path.rpartition("/")[0] or ".", {})[count_key(path, index_dir)] = count
    for folder, counts in by_folder.items():
        keep_counts(folder, index_dir, counts)


def _run(options: argparse.Namespace) -> None:
    if options.workers < 1:
        raise ValueError(f"--workers must be at least 1. Received: {options.workers}")
    kind, paths, index_dir = shards_of(options.source)
    index_dir = options.index_dir or index_dir
    known = find_counts(paths, index_dir)
    missing = [path for path, count in zip(paths, known, strict=True) if options.again or count < 0]
    print(f"{len(paths):,} shards, {len(paths) - len(missing):,} of them counted already")
    line = ProgressLine("Counting shards", len(missing))
    unwritten: list[tuple[str, int]] = []
    broken: list[tuple[str, str]] = []
    total = 0
    written = time.monotonic()
    try:
        for number, (path, count) in enumerate(_counts(kind, missing, options.workers), 1):
            if isinstance(count, str):
                broken.append((path, count))
            else:
                total += count
                unwritten.append((path, count))
            if time.monotonic() - written > _SECONDS_BETWEEN_WRITES:
                _keep(index_dir, unwritten)
                unwritten, written = [], time.monotonic()
            line.show(number)
    finally:
        _keep(index_dir, unwritten)
    print(f"counted {total:,} records in {len(missing) - len(broken):,} shards")
    if broken:
        path, why = broken[0]
        raise ValueError(f"{len(broken):,} shards cannot be read: {path}: {why}. Start again once they can.")


def main(argv: list[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    options = parser().parse_args(argv)
    try:
        return exit_status(lambda: _run(options), fault=2, prefix="error: ")
    except KeyboardInterrupt:
        print("stopped; what was counted is kept, and the next start continues from there", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
