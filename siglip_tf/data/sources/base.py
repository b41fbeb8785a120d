"""What every data source offers: `size` records, each read in-graph by its index, and named by shard and offset."""

import abc
import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf


class Source(abc.ABC):
    """Image-text records addressed by one integer, so that a position in training is one integer too.

    A source makes no order, repeats nothing and decodes no image: `siglip_tf.data.order.record_order` decides which
    record comes when, and the pipelines decode. A subclass sets `size`, `name` and `fingerprint`, and writes `read` and
    `locate`.

    Attributes:
        size: number of records, broken ones included (an unlimited generator says `2**40`, say).
        name: what reports and error messages call the source.
        fingerprint: hex digest that changes when a record or the numbering of records changes; `fingerprint_of` helps.
        runs: None where any record costs the same to read (local files, generated data). Else int64 (runs + 1,), rising
            from 0 to size: the borders of the runs of records that are read in one go (remote shards), whose order is
            then shuffled by runs, and by records within windows of several runs.
        record_bytes: mean size of a record, which decides how many runs make a window.
        has_groups: whether examples say their group.
        class_names: names of the labels, or None.
        notes: lines for people, about how the source is read: which files say the captions, what is left out.
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
        """One raw example, in-graph: called while a tf.data map function is traced.

        Args:
            index: int64 scalar in [0, size).

        Returns:
            `"image"`: string scalar, encoded JPEG, PNG, GIF or BMP bytes. `"captions"`: string (k,), k >= 0 (none at
            all is a bad record). `"id"`: string scalar. Optionally `"label"`: int32 scalar, `"group"`: int64 scalar
            (see `groups`; where `has_groups`), `"language"`: string (k,), and `"cause"`: string scalar, a value of
            `bad_records.Cause` where the source knows that the record is broken, else `""`. An op that fails at run
            time makes the record a bad one; nothing else stops.
        """

    @abc.abstractmethod
    def locate(self, index: int) -> tuple[str, int]:
        """`(shard, offset)` of a record, for reports: the file or generator it stands in, and its number in there."""

    def fetch(self, index: int) -> dict[str, Any]:
        """`read` outside the graph, for people and diagnoses: numpy values, strings as bytes, captions as object (k,).

        Raises:
            tf.errors.OpError: the record cannot be read.
        """
        return {key: value.numpy() for key, value in self.read(tf.constant(index, tf.int64)).items()}

    def read_run(self, start: tf.Tensor, count: tf.Tensor) -> tf.data.Dataset:
        """`count` neighboring raw examples from record `start` on, in-graph, read in one go where there are `runs`.

        Args:
            start: int64 scalar.
            count: int64 scalar; start + count lies in the same run as start, or at most at its end.
        """
        return tf.data.Dataset.range(start, start + count).map(self.read)


def fingerprint_of(*parts: object) -> str:
    """A short hex digest of the `str` of each part, lists flattened."""
    digest = hashlib.sha256()
    for part in parts:
        values = part if isinstance(part, Iterable) and not isinstance(part, str | bytes) else [part]
        for value in values:
            digest.update(repr(value).encode() + b"\0")
        digest.update(b"\1")
    return digest.hexdigest()[:16]
