"""Requests that a stranger might send to a server, without end and from a seed, and what may come back."""

import asyncio
import base64
import collections
import dataclasses
import json
from collections.abc import Callable
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


@dataclasses.dataclass
class Outcome:
    """Answers by their status, and what should never have come back."""

    statuses: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    wrong: list[str] = dataclasses.field(default_factory=list)


class Hostile:
    """Makes requests of one kind after another.

    Args:
        seed: names the sequence.
        picture: a sound picture, which is cut and changed.
        inputs: signature -> names of its inputs.
    """

    def __init__(self, seed: int, picture: bytes, inputs: dict[str, list[str]]):
        self._rng = np.random.default_rng(seed)
        self._picture = picture
        self._inputs = inputs

    def body(self) -> bytes:
        """A body for REST."""
        rng = self._rng
        kind = rng.integers(5)
        if kind == 0:
            return self._pick(_JSON_STARTS).encode("utf-8", "surrogatepass")
        whole = json.dumps(self._document()).encode()
        if kind == 1:
            return whole[: rng.integers(0, len(whole))]
        if kind == 2:
            return self._changed(whole)
        return whole

    def path(self) -> str:
        """An address, the right one most of the time."""
        return _PATHS[0] if self._rng.random() < 0.9 else self._pick(_PATHS)

    def message(self) -> bytes:
        """A serialized `PredictRequest`, or what is left of one."""
        from tensorflow.core.framework import tensor_pb2
        from tensorflow_serving.apis import predict_pb2

        rng = self._rng
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
        return self._changed(message) if rng.random() < 0.2 else message

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


def bombard(server, hostile: Hostile, requests: int, clients: int = 8) -> Outcome:
    """Sends that many requests, REST and gRPC in turn, and checks every answer's form.

    A refusal must be a status of 400 to 499 with {"error": text}, or a gRPC code with details. An answer of 200 must
    hold finite numbers only.
    """
    return asyncio.run(_bombard(server, hostile, requests, clients))


async def _bombard(server, hostile: Hostile, requests: int, clients: int) -> Outcome:
    import aiohttp
    import grpc

    outcome = Outcome()
    timeout = aiohttp.ClientTimeout(total=120)
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel,
    ):
        left = iter(range(requests))

        async def client() -> None:
            for number in left:
                ask = _ask_rest if number % 2 else _ask_grpc
                await ask(server, hostile, session if number % 2 else channel, outcome)

        await asyncio.gather(*(client() for _ in range(clients)))
    return outcome


async def _ask_rest(server, hostile: Hostile, session, outcome: Outcome) -> None:
    import aiohttp
    import yarl

    body = hostile.body()
    address = yarl.URL(f"http://127.0.0.1:{server.rest_port}{hostile.path()}", encoded=True)
    try:
        async with session.post(address, data=body) as answer:
            status, content = answer.status, await answer.read()
    except (aiohttp.ClientError, TimeoutError) as error:
        outcome.wrong.append(f"no answer to {body[:80]!r}: {error!r}")
        return
    outcome.statuses[f"REST {status}"] += 1
    try:
        document = json.loads(content)
        if status == 200:
            good = _finite(document.get("outputs", document.get("predictions")))
        else:
            good = 400 <= status < 500 and bool(document["error"])
            good = good or (status == 501 and bool(document["error"]))
    except (ValueError, KeyError, AttributeError):
        good = False
    if not good:
        outcome.wrong.append(f"{status} {content[:200]!r} to {body[:80]!r}")


def _finite(value) -> bool:
    if isinstance(value, dict):
        return all(_finite(item) for item in value.values())
    if isinstance(value, list):
        return all(_finite(item) for item in value)
    return isinstance(value, str | bool) or bool(np.isfinite(value))


async def _ask_grpc(server, hostile: Hostile, channel, outcome: Outcome) -> None:
    import grpc
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2

    ask: Callable = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
    message = hostile.message()
    try:
        answer = await ask(message, timeout=120)
    except grpc.RpcError as error:
        code = error.code().name
        outcome.statuses[f"gRPC {code}"] += 1
        known = ("INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "RESOURCE_EXHAUSTED")
        if code not in known or not error.details():
            outcome.wrong.append(f"{code} {error.details()!r} to {message[:80]!r}")
        return
    outcome.statuses["gRPC OK"] += 1
    outputs = predict_pb2.PredictResponse.FromString(answer).outputs
    if not outputs or not all(
        _finite(tf.make_ndarray(value).tolist()) for value in outputs.values() if value.dtype == 1
    ):
        outcome.wrong.append(f"{list(outputs)} to {message[:80]!r}")
