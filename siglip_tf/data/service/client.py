"""The coordinator's side of the conversation with one input process: JSON over HTTP."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from typing import Any

# Ignore the environment's proxy, which is for the internet and not for the machines of a run.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
# This is long, because registering a data set traces it, which takes seconds.
_SECONDS = 120.0
_UNREACHABLE = (OSError, http.client.HTTPException, json.JSONDecodeError)


class InputProcessError(RuntimeError):
    """An input process has ended, stalled, restarted, or been taken over by another coordinator."""


class InputClient:
    """The coordinator's connection to one input process.

    Args:
        address: "host:port" of the HTTP server of the input process.

    Raises:
        ValueError: the address has another form.
    """

    def __init__(self, address: str):
        host, colon, port = address.rpartition(":")
        if not (colon and host and port.isdigit() and 0 < int(port) < 1 << 16):
            raise ValueError(f"Expected the address of an input process as HOST:PORT. Received: {address!r}")
        self.address = address
        self.host = host

    def wait(self, seconds: float) -> None:
        """Waits until the process answers.

        Raises:
            InputProcessError: it does not answer within `seconds`.
        """
        end = time.monotonic() + seconds
        while True:
            try:
                self.get("status", timeout=5.0)
                return
            except InputProcessError as error:
                if time.monotonic() > end:
                    raise InputProcessError(
                        f"No input process answers at {self.address} ({error.__cause__ or error}). Start it: "
                        "python -m tools.tpu_input --help"
                    ) from error
                time.sleep(0.5)

    def get(self, what: str, timeout: float = _SECONDS) -> dict[str, Any]:
        """Returns the answer of the process to a GET request.

        Raises:
            InputProcessError: the process does not answer in time.
            ValueError: the process refuses the request. The message is the one it sends.
        """
        return self._ask(urllib.request.Request(f"http://{self.address}/{what}"), timeout)

    def post(self, what: str, body: dict[str, Any], timeout: float = _SECONDS) -> dict[str, Any]:
        """Sends a POST request with a JSON body, and returns the answer. Errors are those of `get`."""
        data = json.dumps(body).encode()
        request = urllib.request.Request(
            f"http://{self.address}/{what}", data, {"Content-Type": "application/json"}, method="POST"
        )
        return self._ask(request, timeout)

    def _ask(self, request: urllib.request.Request, timeout: float) -> dict[str, Any]:
        try:
            with _OPENER.open(request, timeout=timeout) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            raise self._refusal(error) from error
        except _UNREACHABLE as error:
            raise InputProcessError(f"The input process at {self.address} does not answer: {error}") from error

    def _refusal(self, error: urllib.error.HTTPError) -> Exception:
        try:
            said = json.loads(error.read())
        except _UNREACHABLE:
            return InputProcessError(f"The process at {self.address} is not an input process: {error}")
        text = f"The input process at {self.address}: {said.get('error', error)}"
        return InputProcessError(text) if said.get("session") else ValueError(text)
