"""Clients that ask a server on this machine at the same time, over REST and gRPC, and note each answer's time."""

import asyncio
import base64
import dataclasses
import itertools
import json
import time
from collections.abc import Callable, Sequence

import numpy as np


@dataclasses.dataclass
class Load:
    """What a run of clients saw: seconds of each answered request, errors by their text, and seconds in all."""

    seconds: list[float] = dataclasses.field(default_factory=list)
    errors: dict[str, int] = dataclasses.field(default_factory=dict)
    total: float = 0.0

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.seconds) / self.total if self.total else 0.0

    def percentile(self, share: float) -> float:
        """Milliseconds that this share of the answers did not exceed."""
        return 1e3 * float(np.quantile(self.seconds, share)) if self.seconds else float("nan")

    def failed(self, error: Exception | str) -> None:
        """Notes an error."""
        text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
        self.errors[text[:200]] = self.errors.get(text[:200], 0) + 1


@dataclasses.dataclass(frozen=True)
class Question:
    """One request in both protocols: a signature, its inputs, and how many rows the answer has."""

    signature: str
    inputs: dict[str, list[bytes] | list[str]]

    @property
    def rows(self) -> int:
        """Rows of the answer."""
        return len(next(iter(self.inputs.values())))

    def body(self) -> bytes:
        """The body for REST."""
        inputs = {
            name: [{"b64": base64.b64encode(v).decode()} if isinstance(v, bytes) else v for v in values]
            for name, values in self.inputs.items()
        }
        return json.dumps({"signature_name": self.signature, "inputs": inputs}).encode()

    def message(self) -> bytes:
        """The serialized `PredictRequest`."""
        import tensorflow as tf
        from tensorflow_serving.apis import predict_pb2

        request = predict_pb2.PredictRequest()
        request.model_spec.name, request.model_spec.signature_name = "model", self.signature
        for name, values in self.inputs.items():
            request.inputs[name].CopyFrom(tf.make_tensor_proto(values))
        return request.SerializeToString()


def load(
    protocol: str,
    server,
    questions: Sequence[Question],
    clients: int,
    *,
    seconds: float | None = None,
    requests: int | None = None,
    during: Callable[[int], None] | None = None,
) -> Load:
    """Lets clients ask in turn until the time or the number is over; each waits for its answer before it asks again.

    Args:
        protocol: "rest" or "grpc".
        server: a `ServerProcess`.
        questions: asked in turn.
        clients: how many ask at the same time.
        seconds: how long.
        requests: how many in all.
        during: called with the number of requests begun, after each.
    """
    return asyncio.run(_load(protocol, server, questions, clients, seconds, requests, during))


async def _load(protocol, server, questions, clients, seconds, requests, during) -> Load:
    result, numbers = Load(), itertools.count(1)
    started = time.perf_counter()

    def more() -> int | None:
        number = next(numbers)
        over = (requests is not None and number > requests) or (
            seconds is not None and time.perf_counter() - started > seconds
        )
        return None if over else number

    async def client(ask: Callable) -> None:
        while (number := more()) is not None:
            begun = time.perf_counter()
            try:
                problem = await ask(number)
            except Exception as error:  # whatever a client library raises is one failed request
                problem = error
            if problem is None:
                result.seconds.append(time.perf_counter() - begun)
            else:
                result.failed(problem)
                await asyncio.sleep(0.01)
            if during is not None:
                during(number)

    async with _asker(protocol, server, questions) as ask:
        await asyncio.gather(*(client(ask) for _ in range(clients)))
    result.total = time.perf_counter() - started
    return result


def _asker(protocol: str, server, questions: Sequence[Question]):
    return (_Rest if protocol == "rest" else _Grpc)(server, questions)


class _Rest:
    def __init__(self, server, questions: Sequence[Question]):
        self._url = f"{server.url}:predict"
        self._bodies = [(question.rows, question.body()) for question in questions]

    async def __aenter__(self) -> Callable:
        import aiohttp

        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=120)
        )
        return self._ask

    async def __aexit__(self, *error) -> None:
        await self._session.close()

    async def _ask(self, number: int) -> str | None:
        rows, body = self._bodies[number % len(self._bodies)]
        async with self._session.post(self._url, data=body) as answer:
            content = await answer.json()
        if answer.status != 200:
            return f"{answer.status} {content.get('error')}"
        found = content["outputs"]
        sizes = {len(value) for value in (found.values() if isinstance(found, dict) else [found])}
        return None if sizes == {rows} else f"{sizes} rows for {rows}"


class _Grpc:
    def __init__(self, server, questions: Sequence[Question]):
        self._address = f"127.0.0.1:{server.grpc_port}"
        self._messages = [(question.rows, question.message()) for question in questions]

    async def __aenter__(self) -> Callable:
        import grpc
        from tensorflow_serving.apis import predict_pb2

        self._channel = grpc.aio.insecure_channel(self._address, options=[("grpc.max_send_message_length", -1)])
        self._predict = self._channel.unary_unary(
            "/tensorflow.serving.PredictionService/Predict",
            response_deserializer=predict_pb2.PredictResponse.FromString,
        )
        return self._ask

    async def __aexit__(self, *error) -> None:
        await self._channel.close()

    async def _ask(self, number: int) -> str | None:
        rows, message = self._messages[number % len(self._messages)]
        response = await self._predict(message, timeout=120)
        shapes = {name: output.tensor_shape.dim[0].size for name, output in response.outputs.items()}
        return None if set(shapes.values()) == {rows} else f"rows {shapes} for {rows}"
