"""The interface of every data source: `size` records, each read in the graph by its index."""

import abc
import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from siglip_tf.op_errors import op_errors


class Source(abc.ABC):
    """Image-text records, each addressed by one integer, so that a position in training is one integer, too.

    A source does not shuffle, repeat, or decode: `siglip_tf.data.order.record_order` decides which record comes when,
    and the pipelines decode images. A subclass sets `size`, `name`, and `fingerprint`, and implements `read` and
    `locate`.

    Attributes:
        size: number of records, broken ones included (for an unlimited generator a large number such as `2**40`).
        name: the name of the source in reports and error messages.
        fingerprint: hex digest that changes when a record or the numbering of records changes; see `fingerprint_of`.
        runs: None if every record costs the same to read (local files, generated data). Otherwise int64 (runs + 1,),
            rising from 0 to `size`: the borders of the runs of records that are read together (remote shards). Such a
            source is shuffled by runs, and by records within windows of several runs.
        record_bytes: mean size of a record in bytes, which determines how many runs make a window.
        has_groups: whether examples have a "group".
        class_names: names of the labels, or None.
        notes: lines for people about how the source is read, such as which files hold the captions.
    """

    size: int
    name: str
    fingerprint: str
    runs: np.ndarray | None = None
    record_bytes: float = 100_000.0
    has_groups: bool = False
    class_names: Sequence[str] | None = None
    notes: tuple[str, ...] = ()

    @abc.abstractmethod
    def read(self, index: tf.Tensor) -> dict[str, tf.Tensor]:
        """Reads one raw example in the graph. It is called while a tf.data map function is traced.

        Args:
            index: int64 scalar in [0, size).

        Returns:
            `"image"`: string scalar, encoded JPEG, PNG, GIF, BMP, or WebP bytes. `"captions"`: string (k,), k >= 0; a
            record without captions is a bad record. `"id"`: string scalar. Optionally `"label"`: int32 scalar;
            `"group"`: int64 scalar, if `has_groups` (see `groups`); `"language"`: string (k,); and `"cause"`: string
            scalar, a value of `bad_records.Cause` if the source knows that the record is broken, and `""` otherwise.
            If an op fails at run time, the record is a bad record, and nothing else is affected.
        """

    @abc.abstractmethod
    def locate(self, index: int) -> tuple[str, int]:
        """Returns a record's `(shard, offset)` for reports: its file or generator, and its number in there."""

    def fetch(self, index: int) -> dict[str, Any]:
        """Reads one raw example outside the graph, for diagnoses. Values are NumPy's; texts are bytes.

        Raises:
            tf.errors.OpError: the record cannot be read.
        """
        with op_errors():
            return {key: value.numpy() for key, value in self.read(tf.constant(index, tf.int64)).items()}

    def read_run(self, start: tf.Tensor, count: tf.Tensor) -> tf.data.Dataset:
        """Reads neighboring raw examples in the graph, all together if the source has `runs`.

        Args:
            start: int64 scalar, the first record.
            count: int64 scalar. All `count` records must lie in the same run.
        """
        return tf.data.Dataset.range(start, start + count).map(self.read)


def fingerprint_of(*parts: object) -> str:
    """Returns a short hex digest of the `repr` of each part. A list is hashed item by item."""
    digest = hashlib.sha256()
    for part in parts:
        values = part if isinstance(part, Iterable) and not isinstance(part, str | bytes) else [part]
        for value in values:
            digest.update(repr(value).encode() + b"\0")
        digest.update(b"\1")
    return digest.hexdigest()[:16]
