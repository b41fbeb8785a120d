"""The index of a shard says where each record begins. It is kept in a file, or made when the shard is read.

An index file holds little-endian int64 numbers, `_HEADER` of them in the header and `columns` per record, and then
bytes that some columns point to. It is valid for a shard of the same size and modification time that is scanned in the
same way.

Local shards are scanned once, before the first record is read. Remote shards only need counts at the beginning, which
their writers leave beside them (see `counts`). The index of a remote shard is made when the whole shard is read, and
its count is checked then.
"""

import concurrent.futures
import dataclasses
import hashlib
import io
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import BinaryIO

import numpy as np
import tensorflow as tf

from siglip_tf.data.order.bad_records import Cause
from siglip_tf.data.sources.paths import join, open_binary
from siglip_tf.data.sources.shards.counts import ProgressLine, find_counts
from siglip_tf.data.sources.shards.mapped_files import can_map
from siglip_tf.storage import write_file

_MAGIC = 0x5349474C49585F31
_HEADER = 8
HEADER_BYTES = 8 * _HEADER
_THREADS = 8
# How many indices of recently read shards are kept, because pieces of one shard are read close to each other.
_KEPT = 16
# The sizes of this many remote shards are read, because reading all sizes would take too long.
_SAMPLED = 8
# At most this many remote shards without a count are scanned at once. For more, use the command, which can resume.
MAX_SCANNED = 1000
_CAUSES = (None, *Cause)


@dataclasses.dataclass(frozen=True)
class Scan:
    """The result of scanning one shard.

    Attributes:
        rows: int64 (records, columns). The last column is a cause.
        blob: bytes that some columns point to.
    """

    rows: np.ndarray
    blob: bytes = b""


Scanner = Callable[[BinaryIO], Scan]


class ShardIndex:
    """The indices of a list of shards.

    Attributes:
        shards: paths of the shards.
        files: paths of their index files, or None if an index is made when its shard is read.
        counts: int64 (shards,), number of records in each shard.
        sizes: int64, the size of each shard in bytes; of a few shards only, if the shards are not scanned.
        borders: int64 (shards + 1,), each shard's first record, and the number of all records.
        record_bytes: mean size of a record in bytes.
        random_access: whether shards and indices are mapped into memory.
        paths: string (shards,), the paths as a tensor.
    """

    def __init__(
        self,
        shards: Sequence[str],
        counts: np.ndarray,
        scan: Scanner,
        columns: int,
        mark: int,
        *,
        files: list[str] | None = None,
        sizes: np.ndarray,
        record_bytes: float | None = None,
        random_access: bool = False,
    ):
        self.shards = list(shards)
        self.files = files
        self.counts = counts
        self.sizes = sizes
        self.borders = np.concatenate([[0], np.cumsum(counts)])
        self.record_bytes = record_bytes or float(self.sizes.sum()) / int(self.borders[-1])
        self.random_access = random_access
        self.paths = tf.constant(self.shards)
        self._scan = scan
        self._columns = columns
        self._mark = mark
        self._read: OrderedDict[int, tuple[bytes, str]] = OrderedDict()
        self._lock = threading.Lock()

    def locate(self, index: int) -> tuple[str, int]:
        """Returns a record's shard and its number in the shard."""
        shard = int(np.searchsorted(self.borders, index, side="right")) - 1
        return self.shards[shard], index - int(self.borders[shard])

    def row(self, index: int) -> tuple[np.ndarray, bytes, str]:
        """Returns a record's row, its shard's blob, and what is wrong with the shard's count. Not for graphs.

        Raises:
            tf.errors.OpError: the shard cannot be read.
        """
        shard = int(np.searchsorted(self.borders, index, side="right")) - 1
        if self.files is not None:
            with tf.io.gfile.GFile(self.files[shard], "rb") as file:
                data, problem = file.read(), ""
        else:
            data, problem = self._of(shard)
        rows = np.frombuffer(data, "<i8", int(self.counts[shard]) * self._columns, HEADER_BYTES)
        blob = data[HEADER_BYTES + rows.nbytes :]
        return rows.reshape(-1, self._columns)[index - int(self.borders[shard])], blob, problem

    def content(self, shard: tf.Tensor, data: tf.Tensor | None = None) -> tf.Tensor:
        """Returns, in the graph, the content of a shard's index: a string scalar for `int64s_at`.

        Args:
            shard: int64 scalar.
            data: string scalar, the shard's content, if it has been read already.
        """
        if self.files is not None:
            return tf.io.read_file(tf.gather(self.files, shard))
        return tf.numpy_function(
            lambda number, content: self._of(int(number), content or None)[0],
            [shard, "" if data is None else data],
            tf.string,
        )

    def _of(self, shard: int, data: bytes | None = None) -> tuple[bytes, str]:
        """Makes an index with as many rows as the shard's count says, and a message if the shard's number differs."""
        with self._lock:
            if shard in self._read:
                return self._read[shard]
        if data is None:
            with tf.io.gfile.GFile(self.shards[shard], "rb") as file:
                data = file.read()
        found = self._scan(io.BytesIO(data))
        count = int(self.counts[shard])
        rows, problem = _of_count(found.rows.reshape(-1, self._columns), count, self.shards[shard])
        made = (
            _serialized([_MAGIC, self._columns, self._mark, len(data), 0], Scan(rows, found.blob), self._columns),
            problem,
        )
        with self._lock:
            self._read[shard] = made
            while len(self._read) > _KEPT:
                self._read.popitem(last=False)
        return made


def _of_count(rows: np.ndarray, count: int, path: str) -> tuple[np.ndarray, str]:
    """Makes the number of a shard's rows equal to `count`. Broken records replace missing or surplus records."""
    sound = rows[rows[:, -1] != _CAUSES.index(Cause.TORN_SHARD)]
    if len(rows) == count:
        return rows, ""
    broken = np.zeros([1, rows.shape[1]], np.int64)
    if len(sound) < count:
        torn = len(sound) < len(rows)
        broken[0, -1] = _CAUSES.index(Cause.TORN_SHARD if torn else Cause.WRONG_COUNT)
        problem = f"{path} holds {len(sound)} records where its count says {count}"
        return np.concatenate([sound, np.repeat(broken, count - len(sound), axis=0)]), problem
    if len(sound) == count:
        return sound, ""
    broken[0, -1] = _CAUSES.index(Cause.WRONG_COUNT)
    problem = (
        f"{path} holds {len(sound)} records where its count says {count}: the others would never be read. Count the "
        "shards again by `python -m tools.count_shards`"
    )
    return np.concatenate([sound[: count - 1], broken]), problem


def index_shards(
    shards: Sequence[str],
    scan: Scanner,
    columns: int,
    signature: str,
    index_dir: str | None = None,
    verbose: bool = True,
    *,
    random_access: bool | None = None,
    counts: np.ndarray | None = None,
) -> ShardIndex:
    """Indexes each shard once. Shards that changed are scanned again.

    Args:
        shards: paths of shards.
        scan: reads a shard and returns where its records are; called in threads.
        columns: number of columns of the scan's rows.
        signature: a text that changes whenever the scan's result for the same shard would change.
        index_dir: folder for the index files; by default `.index` beside each shard.
        verbose: whether to show progress on stderr if indexing takes more than two seconds.
        random_access: True or False, or None to map local shards unless there are very many.
        counts: int64 (shards,), number of records in each shard, if known. None looks for them beside the shards.

    Raises:
        ValueError: random access to remote shards was requested, the folder is not writable, or very many shards have
            no counts.
    """
    if random_access and not can_map(shards):
        raise ValueError(f"Only local shards can be read at random. Received: {shards[0]!r}")
    mark = int.from_bytes(hashlib.sha256(signature.encode()).digest()[:7])
    mapped = can_map(shards) if random_access is None else random_access
    if not mapped and counts is None and not (random_access is False and can_map(shards)):
        counts = find_counts(shards, index_dir, verbose)
        missing = int((counts < 0).sum())
        if missing > MAX_SCANNED:
            raise ValueError(
                f"{missing:,} of {len(shards):,} shards have no count ({shards[int(np.argmax(counts < 0))]}, ...): "
                "count them once by `python -m tools.count_shards SOURCE`, which continues after a stop."
            )
        counts = None if missing else counts
    if not mapped and counts is not None:
        sizes, record_bytes = _sampled_sizes(shards, counts)
        return ShardIndex(shards, counts.astype(np.int64), scan, columns, mark, sizes=sizes, record_bytes=record_bytes)
    files, found, sizes = _scanned(shards, scan, columns, mark, index_dir, verbose)
    return ShardIndex(shards, found, scan, columns, mark, files=files, sizes=sizes, random_access=mapped)


def _sampled_sizes(shards: Sequence[str], counts: np.ndarray) -> tuple[np.ndarray, float]:
    """Returns the sizes of a few of the shards, and the mean size of their records, in bytes."""
    chosen = np.unique(np.linspace(0, len(shards) - 1, _SAMPLED).astype(np.int64))

    def size(number: int) -> int:
        try:
            return tf.io.gfile.stat(shards[number]).length
        except tf.errors.OpError:  # Its records will count as broken.
            return 0

    with concurrent.futures.ThreadPoolExecutor(_SAMPLED) as pool:
        sizes = np.array(list(pool.map(size, chosen.tolist())), np.int64)
    records = int(counts[chosen][sizes > 0].sum())
    return sizes, float(sizes.sum()) / records if records else 100_000.0


def _scanned(
    shards: Sequence[str], scan: Scanner, columns: int, mark: int, index_dir: str | None, verbose: bool
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Scans all shards, and returns the paths of their index files, their counts, and their sizes."""
    folders = {path: index_dir or join(path.rpartition("/")[0] or ".", ".index") for path in shards}
    for folder in set(folders.values()):
        try:
            tf.io.gfile.makedirs(folder)
        except tf.errors.OpError as error:
            raise ValueError(f"Cannot write the shards' index to {folder!r}: name an index_dir. {error}") from error

    def index_one(path: str) -> tuple[str, int, int]:
        stat = tf.io.gfile.stat(path)
        name = path.rpartition("/")[2]
        if index_dir is not None:  # Shards of different folders may have the same name.
            name += "-" + hashlib.sha256(path.encode()).hexdigest()[:12]
        file = join(folders[path], name + ".index")
        expected = [_MAGIC, columns, mark, stat.length, stat.mtime_nsec]
        header = _header(file)
        if header is None or header[:5].tolist() != expected:
            with open_binary(path) as stream:
                header = _write(file, expected, scan(stream), columns)
        return file, int(header[5]), stat.length

    files, counts, sizes = [], [], []
    line = ProgressLine("Indexing shards", len(shards), verbose)
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        for number, (file, count, size) in enumerate(pool.map(index_one, shards), 1):
            files.append(file)
            counts.append(count)
            sizes.append(size)
            line.show(number)
    return files, np.array(counts, np.int64), np.array(sizes, np.int64)


def _header(file: str) -> np.ndarray | None:
    """Returns the header of an index file, or None if the file is missing or incomplete."""
    if not tf.io.gfile.exists(file):
        return None
    with tf.io.gfile.GFile(file, "rb") as stream:
        data = stream.read(HEADER_BYTES)
        if len(data) < HEADER_BYTES:
            return None
        header = np.frombuffer(data, "<i8")
        whole = HEADER_BYTES + 8 * int(header[1]) * int(header[5]) + int(header[6])
        return header if header[0] == _MAGIC and stream.size() == whole else None


def _serialized(expected: list[int], scanned: Scan, columns: int) -> bytes:
    rows = np.ascontiguousarray(scanned.rows, "<i8").reshape(-1, columns)
    header = np.array([*expected, len(rows), len(scanned.blob), 0], "<i8")
    return header.tobytes() + rows.tobytes() + scanned.blob


def _write(file: str, expected: list[int], scanned: Scan, columns: int) -> np.ndarray:
    data = _serialized(expected, scanned, columns)
    write_file(file, data)
    return np.frombuffer(data[:HEADER_BYTES], "<i8")
