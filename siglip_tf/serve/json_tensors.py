"""TensorFlow Serving's JSON to arrays and back.

Source: the RESTful API page of TensorFlow Serving, and tensorflow_serving/util/json_tensor.cc for the corner cases.
"""

import base64
import binascii
import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from siglip_tf.serve.errors import RequestError, invalid, shown
from siglip_tf.serve.signature import Arrays, TensorInfo


@dataclasses.dataclass(frozen=True)
class PredictBody:
    """A parsed body: which signature it asks, whether it came as rows ("instances"), and the value of that key."""

    signature_name: str
    as_rows: bool
    value: Any


def parse_predict(body: bytes) -> PredictBody:
    """Reads a body without looking at its tensors.

    Raises:
        RequestError: it is not JSON, or not TensorFlow Serving's.
    """
    if not body.strip():
        raise invalid("JSON Parse error: The document is empty")
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise invalid(f"JSON Parse error: {shown(str(error))}") from None
    if not isinstance(document, dict):
        raise invalid(f"Expected the body to be a JSON object. Received: {_kind(document)}.")
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise invalid(f"signature_name: expected a string. Received: {_kind(name)}.")
    keys = [key for key in ("instances", "inputs") if key in document]
    if not keys:
        raise invalid("Missing 'inputs' or 'instances' key")
    if len(keys) == 2:
        raise invalid("Expected one of the keys 'inputs' and 'instances'. Received: both.")
    return PredictBody(name, keys[0] == "instances", document[keys[0]])


def to_arrays(body: PredictBody, inputs: Mapping[str, TensorInfo]) -> Arrays:
    """The tensors of a body.

    Args:
        body: what `parse_predict` returned.
        inputs: what the signature takes.

    Raises:
        RequestError: with the name and position of the value that does not fit.
    """
    columns = _columns_of_rows(body.value, inputs) if body.as_rows else _columns(body.value, inputs)
    return {name: _array(name, value, inputs[name]) for name, value in columns.items()}


def to_json(outputs: Mapping[str, np.ndarray], as_rows: bool) -> bytes:
    """The body of an answer: {"predictions": ...} for a request of rows, else {"outputs": ...}.

    Raises:
        RequestError: rows were asked for, and the outputs have no common first dimension.
    """
    values = {name: _plain(name, array) for name, array in outputs.items()}
    if not as_rows:
        whole = values if len(values) > 1 else next(iter(values.values()))
        return _dumped({"outputs": whole})
    sizes = {name: array.shape[:1] for name, array in outputs.items()}
    if () in sizes.values() or len(set(sizes.values())) > 1:
        raise invalid(
            "The outputs differ in their first dimension, so they are not rows: ask with 'inputs' and not 'instances'."
        )
    if len(values) == 1:
        return _dumped({"predictions": next(iter(values.values()))})
    rows = zip(*values.values(), strict=True)
    return _dumped({"predictions": [dict(zip(values, row, strict=True)) for row in rows]})


def _columns(value: Any, inputs: Mapping[str, TensorInfo]) -> dict[str, Any]:
    if not isinstance(value, dict) or _is_base64(value):
        if len(inputs) > 1:
            raise invalid(f"inputs: expected an object with {', '.join(sorted(inputs))}. Received: {_kind(value)}.")
        return {next(iter(inputs)): value}
    _check_names("inputs", value, inputs)
    return value


def _columns_of_rows(rows: Any, inputs: Mapping[str, TensorInfo]) -> dict[str, list]:
    if not isinstance(rows, list):
        raise invalid(f"instances: expected a list. Received: {_kind(rows)}.")
    if not rows:
        raise invalid("instances: expected at least one value. Received: an empty list.")
    named = [isinstance(row, dict) and not _is_base64(row) for row in rows]
    if not any(named):
        if len(inputs) > 1:
            raise invalid(f"instances: expected objects with {', '.join(sorted(inputs))}. Received: {_kind(rows[0])}.")
        return {next(iter(inputs)): rows}
    if not all(named):
        other = named.index(not named[0])
        raise invalid(f"instances[{other}]: expected {_kind(rows[0])} as in instances[0]. Received: the other kind.")
    for i, row in enumerate(rows):
        _check_names(f"instances[{i}]", row, inputs)
    return {name: [row[name] for row in rows] for name in inputs}


def _check_names(where: str, found: Mapping[str, Any], inputs: Mapping[str, TensorInfo]) -> None:
    if found.keys() != inputs.keys():
        extra, missing = sorted(found.keys() - inputs.keys()), sorted(inputs.keys() - found.keys())
        raise invalid(
            f"{where}: expected the names {', '.join(sorted(inputs))}. "
            f"Missing: {shown(', '.join(missing) or 'none')}. Unknown: {shown(', '.join(extra) or 'none')}."
        )


def _array(name: str, value: Any, info: TensorInfo) -> np.ndarray:
    if info.dtype == tf.string:
        return _strings(name, value)
    return _numbers(name, value, info.dtype)


def _strings(name: str, value: Any) -> np.ndarray:
    shape, first = [], value
    while isinstance(first, list):
        shape.append(len(first))
        if not first:
            break
        first = first[0]
    flat: list[bytes] = []
    _flatten(name, value, shape, flat)
    array = np.empty(len(flat), object)
    array[:] = flat
    return array.reshape(shape)


def _flatten(where: str, value: Any, shape: list[int], flat: list[bytes]) -> None:
    if not shape:
        flat.append(_bytes(where, value))
        return
    if not isinstance(value, list) or len(value) != shape[0]:
        found = f"a list of {len(value)}" if isinstance(value, list) else _kind(value)
        raise invalid(f"{where}: expected a list of {shape[0]} as beside it. Received: {found}.")
    for i, item in enumerate(value):
        _flatten(f"{where}[{i}]", item, shape[1:], flat)


def _bytes(where: str, value: Any) -> bytes:
    if isinstance(value, str):
        try:
            return value.encode()
        except UnicodeEncodeError:
            raise invalid(f"{where}: expected text. Received: a lone surrogate.") from None
    if not _is_base64(value):
        raise invalid(f'{where}: expected a string or {{"b64": "..."}}. Received: {_kind(value)}.')
    try:
        text = value["b64"]
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise invalid(f"{where}: the b64 value is not base64: {shown(str(error))}") from None


def _numbers(name: str, value: Any, dtype: tf.DType) -> np.ndarray:
    try:
        array = np.asarray(value)
    except (ValueError, RecursionError, OverflowError):
        raise invalid(f"{name}: expected numbers in lists of equal lengths. Received: lists that differ.") from None
    expected = "b" if dtype.is_bool else "iu" if dtype.is_integer else "iuf"
    if array.size and array.dtype.kind not in expected:
        raise invalid(f"{name}: expected values of type {dtype.name}. Received: {_numpy_kind(array)}.")
    if dtype.is_integer and array.size and not (dtype.min <= array.min() and array.max() <= dtype.max):
        raise invalid(
            f"{name}: expected {dtype.name} values from {dtype.min} to {dtype.max}. "
            f"Received: values from {array.min()} to {array.max()}."
        )
    with np.errstate(over="ignore"):
        converted = array.astype(dtype.as_numpy_dtype)
    if dtype.is_floating and array.size and (np.isinf(converted) & ~np.isinf(array.astype(np.float64))).any():
        raise invalid(f"{name}: a value is too large for {dtype.name}.")
    return converted


def _numpy_kind(array: np.ndarray) -> str:
    names = {"b": "true or false", "i": "integers", "u": "integers", "f": "fractions", "U": "strings"}
    return names.get(array.dtype.kind, "other values, or integers of more than 64 bits")


def _is_base64(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"b64"} and isinstance(value["b64"], str)


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _plain(name: str, array: np.ndarray) -> Any:
    """Lists of Python values, as `json` writes them."""
    if array.dtype != object:
        return array.tolist()
    flat = [_text(value, name.endswith("_bytes")) for value in array.ravel().tolist()]
    result = np.empty(len(flat), object)
    result[:] = flat
    return result.reshape(array.shape).tolist()


def _text(value: bytes, as_bytes: bool) -> str | dict[str, str]:
    if not as_bytes:
        try:
            return value.decode()
        except UnicodeDecodeError:
            pass
    return {"b64": base64.b64encode(value).decode()}


def _dumped(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def error_json(error: RequestError) -> bytes:
    """TensorFlow Serving's form of an error."""
    return json.dumps({"error": error.message}).encode()
