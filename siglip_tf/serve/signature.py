"""One signature of a loaded SavedModel: what it takes, which requests may share a batch, and how to run it."""

import dataclasses
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from siglip_tf.data.order.bad_records import first_line
from siglip_tf.op_errors import op_errors
from siglip_tf.serve.errors import RequestError, invalid, shown

# Signatures of `siglip_tf.export` with several inputs: pictures may be merged if all other inputs are equal.
_PICTURES_AGAINST = {
    "score": {"images", "texts"},
    "classify": {"images", "labels"},
    "classify_with_templates": {"images", "labels", "templates"},
}

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class TensorInfo:
    """An input or output: its type, and its shape with None for free dimensions (None for an unknown rank)."""

    dtype: tf.DType
    shape: tuple[int | None, ...] | None

    @classmethod
    def of(cls, spec: Any) -> "TensorInfo":
        """From a `tf.TensorSpec` or a symbolic tensor."""
        return cls(spec.dtype, None if spec.shape.rank is None else tuple(spec.shape.as_list()))

    def check(self, name: str, array: np.ndarray, rows: int) -> None:
        """Raises a RequestError that names the input unless the shape fits and no dimension 0 is above `rows`."""
        if self.shape is not None:
            fits = array.ndim == len(self.shape) and all(
                size in (None, found) for size, found in zip(self.shape, array.shape, strict=True)
            )
            if not fits:
                wanted = ", ".join("any" if size is None else str(size) for size in self.shape)
                raise invalid(f"{name}: expected the shape ({wanted}). Received: {shown(array.shape)}.")
        if array.ndim and array.shape[0] > rows:
            raise invalid(f"{name}: expected at most {rows:,} rows. Received: {array.shape[0]:,}.")


class Signature:
    """A named function of one version.

    Args:
        name: as clients call it.
        function: the SavedModel's concrete function.

    Attributes:
        inputs: name -> `TensorInfo`.
        outputs: name -> `TensorInfo`.
        merged: the input along whose first axis requests may be merged; None if each request runs alone.
    """

    def __init__(self, name: str, function: tf.types.experimental.ConcreteFunction):
        self.name = name
        self._function = function
        self.inputs = {key: TensorInfo.of(spec) for key, spec in function.structured_input_signature[1].items()}
        self.outputs = {key: TensorInfo.of(spec) for key, spec in function.structured_outputs.items()}
        self.merged = self._merged_input()

    def _merged_input(self) -> str | None:
        if len(self.inputs) == 1:
            (merged,) = self.inputs
        elif _PICTURES_AGAINST.get(self.name) == set(self.inputs):
            merged = "images"
        else:
            return None
        tensors = [self.inputs[merged], *self.outputs.values()]
        return merged if all(t.shape and t.shape[0] is None for t in tensors) else None

    def rows(self, arrays: Arrays) -> int:
        """Rows of a request: of the merged input, else of its longest input, and at least 1 then."""
        if self.merged is not None:
            return len(arrays[self.merged])
        return max([1, *(len(array) for array in arrays.values() if array.ndim)])

    def batch_key(self, arrays: Arrays) -> Hashable:
        """Requests of equal keys may be merged."""
        shape = arrays[self.merged].shape[1:]
        others = [
            (name, array.shape, tuple(array.ravel().tolist()) if array.dtype == object else array.tobytes())
            for name, array in arrays.items()
            if name != self.merged
        ]
        return id(self), shape, tuple(sorted(others))

    def run(self, arrays: Arrays) -> Arrays:
        """The outputs for checked inputs.

        Raises:
            RequestError: INTERNAL, for outputs without a row for each row of the merged input.
            tensorflow.errors.OpError: what the graph raises.
        """
        tensors = {
            name: tf.constant(array.tolist() if array.dtype == object else array, self.inputs[name].dtype, array.shape)
            for name, array in arrays.items()
        }
        with op_errors():
            outputs = {name: np.asarray(value) for name, value in self._function(**tensors).items()}
        if self.merged is not None:
            rows = self.rows(arrays)
            for name, value in outputs.items():
                if len(value) != rows:
                    raise RequestError(
                        "INTERNAL", f"Signature {self.name}: {name} has {len(value)} rows for {rows} rows of input."
                    )
        return outputs

    def explained(self, arrays: Arrays, error: Exception) -> RequestError:
        """The error for the client, with the input and, for the merged one, the row that the model refuses.

        It asks the model again, for no rows and then for halves of them, so it costs at most one more pass.
        """
        if isinstance(error, RequestError):
            return error
        if isinstance(error, tf.errors.ResourceExhaustedError):
            return RequestError("RESOURCE_EXHAUSTED", f"Signature {self.name}: the model ran out of memory.")
        if not isinstance(error, tf.errors.InvalidArgumentError):
            return RequestError("INTERNAL", f"Signature {self.name} failed: {shown(first_line(error))}")
        if self.merged is None:
            return invalid(f"{', '.join(self.inputs)}: {shown(first_line(error))}")
        others = [name for name in self.inputs if name != self.merged]
        if others and (found := self._refused(arrays, 0, 0)) is not None:
            return invalid(f"{', '.join(others)}: {shown(first_line(found))}")
        start, stop = 0, self.rows(arrays)
        while stop - start > 1:
            middle = (start + stop) // 2
            found = self._refused(arrays, start, middle)
            if found is None:
                start = middle
            else:
                stop, error = middle, found
        final = self._refused(arrays, start, stop) or error
        return invalid(f"{self.merged}[{start}]: {shown(first_line(final))}")

    def _refused(self, arrays: Arrays, start: int, stop: int) -> Exception | None:
        part = arrays | {self.merged: arrays[self.merged][start:stop]}
        try:
            self.run(part)
        except tf.errors.InvalidArgumentError as error:
            return error
        return None


def signatures_of(loaded: Any) -> Mapping[str, Signature]:
    """The signatures of what `tf.saved_model.load` returned, by name."""
    return {name: Signature(name, function) for name, function in loaded.signatures.items()}
