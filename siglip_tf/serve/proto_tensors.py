"""`TensorProto` to arrays and back. A small message can announce a huge tensor, so its size is checked first."""

import math

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2, types_pb2

from siglip_tf.serve.errors import invalid, shown
from siglip_tf.serve.signature import TensorInfo

_VALUES = (
    "half_val",
    "float_val",
    "double_val",
    "int_val",
    "string_val",
    "scomplex_val",
    "int64_val",
    "bool_val",
    "dcomplex_val",
    "uint32_val",
    "uint64_val",
)


def to_array(name: str, proto: tensor_pb2.TensorProto, info: TensorInfo, most_bytes: int) -> np.ndarray:
    """The array of a message.

    Args:
        name: of the input, for errors.
        proto: as the client sent it.
        info: what the signature takes.
        most_bytes: the largest array that is made.

    Raises:
        RequestError: another type, a shape that is none, or too few or too many values.
    """
    if proto.dtype != info.dtype.as_datatype_enum:
        expected = _dtype_name(info.dtype.as_datatype_enum)
        raise invalid(f"{name}: expected the type {expected}. Received: {_dtype_name(proto.dtype)}.")
    dims = [dim.size for dim in proto.tensor_shape.dim]
    if proto.tensor_shape.unknown_rank or any(size < 0 for size in dims):
        raise invalid(f"{name}: expected a known shape. Received: {shown(dims or 'unknown rank')}.")
    count = math.prod(dims)
    sent = sum(len(getattr(proto, field)) for field in _VALUES)
    if info.dtype == tf.string:
        if proto.tensor_content or len(proto.string_val) != sent or sent != count:
            raise invalid(f"{name}: expected {count:,} values in string_val for the shape {shown(dims)}.")
        array = np.empty(count, object)
        array[:] = list(proto.string_val)
        return array.reshape(dims)
    width = info.dtype.size
    if count * width > most_bytes:
        raise invalid(f"{name}: the shape {shown(dims)} announces {count * width:,} bytes; {most_bytes:,} are allowed.")
    # One value may stand for all, as TensorFlow writes constant tensors.
    content = len(proto.tensor_content)
    fits = content == count * width and not sent if content else sent == count or (sent == 1 and count > 0)
    if not fits:
        raise invalid(f"{name}: the shape {shown(dims)} has {count:,} values, and the message holds another number.")
    try:
        return tf.make_ndarray(proto)
    except (TypeError, ValueError) as error:
        raise invalid(f"{name}: {shown(str(error))}") from None


def to_proto(array: np.ndarray) -> tensor_pb2.TensorProto:
    """The message of an array. Floats stand in `float_val`, where clients without TensorFlow look for them."""
    if array.dtype != np.float32:
        return tf.make_tensor_proto(array)
    proto = tensor_pb2.TensorProto(dtype=tf.float32.as_datatype_enum)
    for size in array.shape:
        proto.tensor_shape.dim.add().size = size
    proto.float_val.extend(array.ravel().tolist())
    return proto


def _dtype_name(number: int) -> str:
    return types_pb2.DataType.Name(number) if number in types_pb2.DataType.values() else str(number)
