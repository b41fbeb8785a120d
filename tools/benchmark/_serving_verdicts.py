"""Sends hostile requests to a server and judges each answer: its status, its shapes, its numbers, its error's words."""

import asyncio
import collections
import dataclasses
import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ._server_process import ServerProcess
from ._serving_hostile import Attack, Hostile

# Parts of a request beside its tensors, as errors name them.
_PARTS = "inputs|instances|signature|signature_name|JSON|JSON object|output_filter|model_spec|version|Servable"
_WHOLE = r"Malformed request|There is nothing at|The request cannot be read|:predict"
_CODES = ("INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "RESOURCE_EXHAUSTED")


@dataclasses.dataclass
class Outcome:
    """Answers by their status, and what should never have come back."""

    statuses: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    wrong: list[str] = dataclasses.field(default_factory=list)


def bombard(server: ServerProcess, hostile: Hostile, requests: int, clients: int = 8) -> Outcome:
    """Sends that many requests, REST and gRPC in turn, and checks every answer.

    An answer of 200 must have the shapes that the signature promises for what was sent, and finite numbers only. A
    refusal must be a status of 400 to 499 (or 501 for a method that the server does not have) with {"error": text}, or
    a gRPC code with details. Its text must name a field or a part of the request: the wrong one where it is known.
    """
    return asyncio.run(_bombard(server, hostile, requests, clients))


async def _bombard(server: ServerProcess, hostile: Hostile, requests: int, clients: int) -> Outcome:
    import aiohttp
    import grpc

    outcome = Outcome()
    timeout = aiohttp.ClientTimeout(total=120)
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel,
    ):
        judge = Judge(await _definitions(channel))
        left = iter(range(requests))

        async def client() -> None:
            for number in left:
                if number % 2:
                    attack = hostile.body()
                    problem = await _ask_rest(server, hostile.path(), attack, session, judge, outcome)
                else:
                    attack = hostile.message()
                    problem = await _ask_grpc(attack, channel, judge, outcome)
                if problem:
                    outcome.wrong.append(f"{problem} to {attack.content[:80]!r}")

        await asyncio.gather(*(client() for _ in range(clients)))
    return outcome


async def _definitions(channel) -> Mapping[str, Any]:
    """The server's signatures by name."""
    from tensorflow_serving.apis import get_model_metadata_pb2, prediction_service_pb2_grpc

    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "model"
    answer = await prediction_service_pb2_grpc.PredictionServiceStub(channel).GetModelMetadata(request)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    answer.metadata["signature_def"].Unpack(signatures)
    return signatures.signature_def


async def _ask_rest(
    server: ServerProcess, path: str, attack: Attack, session, judge: "Judge", outcome: Outcome
) -> str | None:
    """Returns what is wrong with the answer."""
    import aiohttp
    import yarl

    address = yarl.URL(f"http://127.0.0.1:{server.rest_port}{path}", encoded=True)
    try:
        async with session.post(address, data=attack.content) as answer:
            status, content = answer.status, await answer.read()
    except (aiohttp.ClientError, TimeoutError) as error:
        return f"no answer: {error!r}"
    outcome.statuses[f"REST {status}"] += 1
    try:
        document = json.loads(content)
        if status == 200:
            return judge.rest_answer(json.loads(attack.content), document)
        if not (400 <= status < 500 or status == 501):
            return f"status {status}"
        # At another address, the address is what is wrong.
        return judge.refusal(document["error"], attack if path.endswith("/model:predict") else Attack(b""))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        return f"{status} {content[:200]!r}, {error!r}"


async def _ask_grpc(attack: Attack, channel, judge: "Judge", outcome: Outcome) -> str | None:
    """Returns what is wrong with the answer."""
    import grpc
    from tensorflow_serving.apis import predict_pb2

    ask = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
    try:
        answer = await ask(attack.content, timeout=120)
    except grpc.RpcError as error:
        code = error.code().name
        outcome.statuses[f"gRPC {code}"] += 1
        if code not in _CODES:
            return f"{code} {error.details()!r}"
        return judge.refusal(error.details(), attack)
    outcome.statuses["gRPC OK"] += 1
    request = predict_pb2.PredictRequest.FromString(attack.content)
    return judge.grpc_answer(request, predict_pb2.PredictResponse.FromString(answer))


class Judge:
    """Knows what a server's signatures promise.

    Args:
        definitions: signature -> its `SignatureDef`.
    """

    def __init__(self, definitions: Mapping[str, Any]):
        self._definitions = definitions
        fields = sorted({name for definition in definitions.values() for name in definition.inputs})
        self._named = re.compile(rf"\b({'|'.join(fields)}|{_PARTS})\b|{_WHOLE}")

    def refusal(self, text: str, attack: Attack) -> str | None:
        """What is wrong with an error and its text."""
        if attack.sound:
            return f"a sound request was refused: {text!r}"
        wrong_field = attack.wrong_field
        if wrong_field is not None and not re.search(rf"\b{wrong_field}\b", text):
            return f"an error that does not name {wrong_field}: {text!r}"
        return None if self._named.search(text) else f"an error that names no field: {text!r}"

    def rest_answer(self, document: dict, answer: dict) -> str | None:
        """What is wrong with an answer of 200 to a body."""
        signature = document.get("signature_name") or "serving_default"
        names = list(self._definitions[signature].inputs)
        as_rows = "instances" in document
        value = document["instances" if as_rows else "inputs"]
        if as_rows and isinstance(value[0], dict) and "b64" not in value[0]:
            sizes = {name: len(value) for name in names}
        elif as_rows or not isinstance(value, dict):
            sizes = {names[0]: len(value)}
        else:
            sizes = {name: len(value[name]) for name in names}
        outputs = sorted(self._definitions[signature].outputs)
        if as_rows:
            rows = answer["predictions"]
            found = {outputs[0]: rows} if len(outputs) == 1 else {n: [row[n] for row in rows] for n in outputs}
        else:
            found = {outputs[0]: answer["outputs"]} if len(outputs) == 1 else answer["outputs"]
        return self._problem(signature, sizes, outputs, {name: np.array(value) for name, value in found.items()})

    def grpc_answer(self, request: Any, answer: Any) -> str | None:
        """What is wrong with a response to a request."""
        import tensorflow as tf

        signature = request.model_spec.signature_name or "serving_default"
        sizes = {name: value.tensor_shape.dim[0].size for name, value in request.inputs.items()}
        outputs = sorted(request.output_filter or self._definitions[signature].outputs)
        found = {name: tf.make_ndarray(value) for name, value in answer.outputs.items()}
        return self._problem(signature, sizes, outputs, found)

    def _problem(
        self, signature: str, sizes: Mapping[str, int], outputs: list[str], found: Mapping[str, np.ndarray]
    ) -> str | None:
        if sorted(found) != outputs:
            return f"the outputs {sorted(found)} for {outputs}"
        rows = next(sizes[name] for name in ("images", "pixels", "texts") if name in sizes)
        columns = sizes.get("labels", sizes.get("texts"))
        for name, array in found.items():
            dims = [dim.size for dim in self._definitions[signature].outputs[name].tensor_shape.dim]
            expected = [rows if dims[0] == -1 else dims[0], *(columns if size == -1 else size for size in dims[1:])]
            # JSON does not tell the second dimension of an array without rows.
            if list(array.shape) != expected and not (rows == 0 and array.shape == (0,)):
                return f"{name} of the shape {array.shape} for {expected}"
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                return f"{name} with numbers that are not finite"
        return None
