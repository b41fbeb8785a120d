"""A server over many requests, and one that is killed while clients ask it."""

import collections
import dataclasses
import http.client
import json
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from ._server_process import ServerProcess
from ._serving_load import Load, Question, load

_CLIENTS = 16


@dataclasses.dataclass
class Endurance:
    """What many requests did to a server: the load, and its memory at points of the run as (requests, bytes)."""

    load: Load
    memory: list[tuple[int, int]]


def endure(server: ServerProcess, questions: Sequence[Question], requests: int) -> Endurance:
    """Half of the requests over REST, half over gRPC; memory is noted at every twentieth part."""
    memory: list[tuple[int, int]] = []
    total = Load()
    for part, protocol in enumerate(("rest", "grpc")):
        done, step = part * (requests // 2), max(1, requests // 20)

        def note(number: int, done: int = done, step: int = step) -> None:
            if number % step == 0:
                memory.append((done + number, server.resident_bytes()))

        found = load(protocol, server, questions, _CLIENTS, requests=requests // 2, during=note)
        total.seconds += found.seconds
        total.total += found.total
        for text, count in found.errors.items():
            total.errors[text] = total.errors.get(text, 0) + count
    return Endurance(total, memory)


@dataclasses.dataclass
class Killed:
    """What a kill cost: answers before and after, requests in flight that failed, and seconds until it served again."""

    answered: int
    failed: dict[str, int]
    most_in_flight: int
    seconds_to_serve: float
    answered_after: int
    errors_after: dict[str, int]


def kill(base: Path, questions: Sequence[Question], number: int = signal.SIGKILL, seconds: float = 3.0) -> Killed:
    """Ends a server with a signal while clients ask it, and starts it again on the same port.

    Each client stops at its first failed request, so that a failure is one that was in flight (or that came right after
    another client's, on a port that nobody listened to any more).
    """
    server = ServerProcess(base)
    clients = [_Client(server, questions[0]) for _ in range(_CLIENTS)]
    threads = [threading.Thread(target=client.run) for client in clients]
    for thread in threads:
        thread.start()
    time.sleep(seconds)
    ports = server.rest_port, server.grpc_port
    server.stop(number)
    for thread in threads:
        thread.join(60)
    again = ServerProcess(base, rest_port=ports[0], grpc_port=ports[1])
    after = load("rest", again, questions, _CLIENTS, requests=200)
    again.stop()
    return Killed(
        answered=sum(client.answered for client in clients),
        failed=dict(collections.Counter(client.failure for client in clients if client.failure)),
        most_in_flight=len(clients),
        seconds_to_serve=again.seconds_to_start,
        answered_after=len(after.seconds),
        errors_after=after.errors,
    )


class _Client:
    """Asks until a request fails or the server says that the connection ends."""

    def __init__(self, server: ServerProcess, question: Question):
        self._port = server.rest_port
        self._question = question
        self.answered = 0
        self.failure = ""

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        body = self._question.body()
        while True:
            try:
                connection.request("POST", "/v1/models/model:predict", body)
                answer = connection.getresponse()
                content = answer.read()
            except (OSError, http.client.HTTPException) as error:
                self.failure = type(error).__name__
                return
            if answer.status != 200 or len(json.loads(content)["outputs"]) != self._question.rows:
                self.failure = f"{answer.status} {content[:100]!r}"
                return
            self.answered += 1
            if answer.headers.get("Connection") == "close":  # a server that drains says so with its last answer
                return
