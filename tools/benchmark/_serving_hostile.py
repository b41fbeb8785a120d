"""Requests that a stranger might send to a server, without end and from a seed."""

import base64
import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_JSON_STARTS = ("", "{", "[", "null", "1e999", '"\\ud800"', "[" * 5_000, '{"inputs":' * 500, "\x00", "NaN")
_VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    2**70,
    1e300,
    float("nan"),
    "",
    "a\0b",
    {"b64": "%%%"},
    {"b64": 7},
    {"b64": "YQ==", "more": 1},
    {},
    [],
    [[]],
    [[["deep"]]],
    [1, "mixed"],
)
# Values that answer 200, for the fields beside a wrong one.
_SOUND: dict[str, Any] = {
    "texts": ["a red circle", "two"],
    "labels": ["circle", "two squares"],
    "templates": ["a drawing of {}"],
    "pixels": np.zeros((1, 4, 4, 3), np.uint8).tolist(),
}
_PATHS = (
    "/v1/models/model:predict",
    "/v1/models/model/versions/1:predict",
    "/v1/models/model/versions/99999999999999999999:predict",
    "/v1/models/other:predict",
    "/v1/models/model/labels/x:predict",
    "/v1/models/model:regress",
    "/v1/models/../../etc/passwd",
    "/v1/models/%00:predict",
    "/" + "x" * 5_000,
)


@dataclasses.dataclass(frozen=True)
class Attack:
    """What is sent, and what is known about it.

    Attributes:
        content: a body for REST or a serialized message.
        wrong_field: the name of its one wrong field, where the request is sound but for that.
        sound: it is strange, but must be answered.
    """

    content: bytes
    wrong_field: str | None = None
    sound: bool = False


class Hostile:
    """Makes requests of one kind after another.

    Args:
        seed: names the sequence.
        picture: a sound picture, which is cut and changed.
        inputs: signature -> names of its inputs, among images, texts, labels, templates, and pixels.
    """

    def __init__(self, seed: int, picture: bytes, inputs: Mapping[str, Sequence[str]]):
        self._rng = np.random.default_rng(seed)
        self._picture = picture
        self._inputs = inputs

    def body(self) -> Attack:
        """A body for REST."""
        rng = self._rng
        kind = rng.integers(7)
        if kind == 0:
            return Attack(self._pick(_JSON_STARTS).encode("utf-8", "surrogatepass"))
        if kind == 1:
            return self._one_wrong_field()
        if kind == 2:
            return self._strange_but_sound_body()
        whole = json.dumps(self._document()).encode()
        if kind == 3:
            return Attack(whole[: rng.integers(0, len(whole))])
        if kind == 4:
            return Attack(self._changed(whole))
        return Attack(whole)

    def path(self) -> str:
        """An address, the right one most of the time."""
        return _PATHS[0] if self._rng.random() < 0.9 else self._pick(_PATHS)

    def message(self) -> Attack:
        """A serialized `PredictRequest`, or what is left of one."""
        from tensorflow.core.framework import tensor_pb2
        from tensorflow_serving.apis import predict_pb2

        rng = self._rng
        kind = rng.integers(7)
        if kind == 0:
            return self._one_wrong_tensor()
        if kind == 1:
            return self._strange_but_sound_message()
        request = predict_pb2.PredictRequest()
        request.model_spec.name = self._pick(["model"] * 9 + [""])
        signature, names = self._signature()
        request.model_spec.signature_name = signature
        for name in names:
            proto = tensor_pb2.TensorProto(dtype=int(self._pick([7] * 6 + [1, 3, 4, 0, 99])))
            for size in self._pick([[1], [1], [2], [], [0], [-1], [2**40], [2**62, 2**62], [1, 1]]):
                proto.tensor_shape.dim.add().size = size
            for _ in range(rng.integers(0, 3)):
                proto.string_val.append(self._bytes())
            if rng.random() < 0.1:
                proto.tensor_content = rng.bytes(8)
            if rng.random() < 0.1:
                proto.float_val.append(1.0)
            request.inputs[name].CopyFrom(proto)
        if rng.random() < 0.1:
            request.output_filter.append(self._pick(["embedding", "nothing", ""]))
        message = request.SerializeToString()
        return Attack(self._changed(message) if rng.random() < 0.2 else message)

    def _one_wrong_field(self) -> Attack:
        signature = self._pick(list(self._inputs))
        picture = {"b64": base64.b64encode(self._picture).decode()}
        values = {name: [picture] if name == "images" else _SOUND[name] for name in self._inputs[signature]}
        wrong = self._pick([*values, "more"])
        # A list without values is a request without rows, which is answered.
        values[wrong] = self._pick([value for value in _VALUES if value != []])
        return Attack(json.dumps({"signature_name": signature, "inputs": values}).encode(), wrong)

    def _strange_but_sound_body(self) -> Attack:
        signature = self._pick(list(self._inputs))
        values = {
            name: [{"b64": base64.b64encode(v).decode()} if isinstance(v, bytes) else v for v in values]
            for name, values in self._strange_but_sound(signature).items()
        }
        return Attack(json.dumps({"signature_name": signature, "inputs": values}).encode(), sound=True)

    def _strange_but_sound_message(self) -> Attack:
        signature = self._pick(list(self._inputs))
        return Attack(self._request(signature, self._strange_but_sound(signature)).SerializeToString(), sound=True)

    def _strange_but_sound(self, signature: str) -> dict[str, list]:
        """Any number of sound pictures, and texts of any bytes: what must be answered, with a row for each."""
        values: dict[str, list] = {}
        for name in self._inputs[signature]:
            count = int(self._rng.integers(0, 5))
            if name == "images":
                values[name] = [self._picture] * count
            elif name == "pixels":
                height, width = (int(size) for size in self._rng.integers(1, 9, 2))
                values[name] = self._rng.integers(0, 256, (count + 1, height, width, 3)).tolist()
            elif name == "templates":
                values[name] = _SOUND[name] * (count + 1)
            else:
                values[name] = [self._bytes() for _ in range(count)]
        return values

    @staticmethod
    def _request(signature: str, inputs: Mapping[str, Any]):
        """A `PredictRequest`."""
        import tensorflow as tf
        from tensorflow_serving.apis import predict_pb2

        request = predict_pb2.PredictRequest()
        request.model_spec.name, request.model_spec.signature_name = "model", signature
        for name, value in inputs.items():
            request.inputs[name].CopyFrom(tf.make_tensor_proto(value, tf.uint8 if name == "pixels" else tf.string))
        return request

    def _one_wrong_tensor(self) -> Attack:
        from tensorflow.core.framework import types_pb2

        signature = self._pick(list(self._inputs))
        sound = {name: [self._picture] if name == "images" else _SOUND[name] for name in self._inputs[signature]}
        request = self._request(signature, sound)
        wrong = self._pick(list(self._inputs[signature]))
        tensor = request.inputs[wrong]
        match self._rng.integers(3):
            case 0:
                tensor.dtype = types_pb2.DT_FLOAT
            case 1:
                tensor.tensor_shape.dim[0].size = int(self._pick([-1, 7, 2**40]))
            case 2:
                del tensor.tensor_shape.dim[:]
        return Attack(request.SerializeToString(), wrong)

    def _document(self) -> dict:
        signature, names = self._signature()
        values = {name: self._value() for name in names}
        document: dict = {"signature_name": signature}
        if self._rng.random() < 0.5:
            document["inputs"] = values if self._rng.random() < 0.8 else self._pick(_VALUES)
        else:
            document["instances"] = self._pick([[values], list(values.values()), *_VALUES])
        return document

    def _signature(self) -> tuple[str, list[str]]:
        signature = self._pick([*self._inputs, "nothing"])
        names = list(self._inputs.get(signature, ["images"]))
        if self._rng.random() < 0.1:
            names.append("more")
        return signature, names

    def _value(self):
        if self._rng.random() < 0.4:
            return self._pick(_VALUES)
        return [{"b64": base64.b64encode(self._bytes()).decode()} for _ in range(self._rng.integers(0, 4))]

    def _bytes(self) -> bytes:
        rng = self._rng
        kind = rng.integers(5)
        if kind == 0:
            return self._picture
        if kind == 1:
            return self._picture[: rng.integers(0, len(self._picture))]
        if kind == 2:
            return self._changed(self._picture)
        if kind == 3:
            return rng.bytes(int(rng.integers(0, 200)))
        return "".join(chr(p) for p in rng.integers(1, 0xD7FF, rng.integers(1, 50))).encode()

    def _changed(self, data: bytes) -> bytes:
        changed = bytearray(data)
        for position in self._rng.integers(0, max(len(changed), 1), self._rng.integers(1, 6)) if changed else ():
            changed[position] = self._rng.integers(256)
        return bytes(changed)

    def _pick(self, values):
        return values[self._rng.integers(len(values))]
