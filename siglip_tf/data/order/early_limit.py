"""Stops a pipeline whose records are broken, even if no batch ever completes.

`PositionTracker.arrived` checks the limit of bad records when a batch is complete. Endless data without usable records
never completes a batch. So the numbers of the slots pass through an `EarlyLimit` before decoding. It compares how many
slots were handed out with how many arrived, examines some that did not arrive, and ends the data set with an error.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from siglip_tf.data.order.bad_records import Cause, TooManyBadRecordsError
from siglip_tf.data.order.position import PositionTracker

# More slots than any training will use.
ENDLESS = 1 << 62
# How many slots pass between two checks. A check leaves the graph, which costs as much as a few records.
_STRIDE = 64
# How many images may be decoded at once. `tf.data.AUTOTUNE` decodes at most one image per processor core.
_IN_FLIGHT = 64

_as_written = tf.autograph.experimental.do_not_convert


class EarlyLimit:
    """Watches the slots of one stream between their numbering and their decoding.

    Args:
        tracker: the tracker, which knows the slots that have arrived.
        stream: the stream's number.
        examine: maps slots to the cause of each broken one, and None for each sound one.
        waiting: how many sound records may wait for the rest of their batch.
        records: how many different records the data holds.
        stop: the slot after the last one. By default the slots are endless.
        parallel_calls: how many images are decoded at once, or tf.data.AUTOTUNE.
    """

    def __init__(
        self,
        tracker: PositionTracker,
        stream: int,
        examine: Callable[[list[int]], list[Cause | None]],
        *,
        waiting: int,
        records: int,
        stop: int = ENDLESS,
        parallel_calls: int = tf.data.AUTOTUNE,
    ):
        self._tracker = tracker
        self._stream = stream
        self._examine = examine
        self._waiting = waiting
        self._records = records
        self._stop = stop
        self._in_flight = max(_IN_FLIGHT, parallel_calls)
        self._failure: TooManyBadRecordsError | None = None

    def numbers(self, start: int) -> tf.data.Dataset:
        """Returns a data set of int64 scalars from `start` on, which ends only when too many records are broken.

        Zip it with the records, and pass it as the first data set to zip.
        """
        blocks = tf.data.Dataset.range(start, ENDLESS, _STRIDE).take_while(_as_written(self._in_graph))
        return blocks.flat_map(_as_written(lambda first: tf.data.Dataset.range(first, first + _STRIDE)))

    def raise_failure(self) -> None:
        """Raises the error that ended the numbers, if one did."""
        if self._failure is not None:
            raise self._failure

    def _in_graph(self, number: tf.Tensor) -> tf.Tensor:
        return tf.ensure_shape(tf.numpy_function(self._may_go_on, [number], tf.bool), [])

    def _may_go_on(self, number: np.ndarray) -> np.bool_:
        decoded = min(int(number) - self._in_flight, self._stop)
        try:
            self._tracker.handed_out(self._stream, decoded, self._examine, self._waiting, self._records)
        except TooManyBadRecordsError as error:
            # An error raised here would be ignored together with the errors of broken records.
            self._failure = error
            return np.bool_(False)
        return np.bool_(True)


def called_at_the_end(spec: Any, call: Callable[[], None]) -> tf.data.Dataset:
    """Returns a data set without elements that calls `call` when it is read.

    Concatenate it to another data set, to call `call` at the end of that one.

    Args:
        spec: the `element_spec` of the other data set.
        call: the function. An error that it raises becomes an error of the data set.
    """

    def run(_: np.ndarray) -> np.bool_:
        call()
        return np.bool_(False)

    @_as_written
    def never(number: tf.Tensor) -> tf.Tensor:
        return tf.ensure_shape(tf.numpy_function(run, [number], tf.bool), [])

    def blank(value: tf.TypeSpec) -> Any:
        if isinstance(value, tf.RaggedTensorSpec):
            return tf.RaggedTensor.from_row_lengths(tf.zeros([0], value.dtype), tf.zeros([0], value.row_splits_dtype))
        return tf.zeros([size or 0 for size in value.shape], value.dtype)

    return tf.data.Dataset.range(1).filter(never).map(_as_written(lambda _: tf.nest.map_structure(blank, spec)))
