"""The input process: makes one share of every global batch and serves it by tf.data service."""

from __future__ import annotations

import copy
import http.server
import json
import math
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.data.experimental import service

from siglip_tf.data.order.early_limit import ENDLESS
from siglip_tf.data.order.position import check_state
from siglip_tf.data.service.identity import identity

_as_written = tf.autograph.experimental.do_not_convert


class InputServer:
    """Serves one share of a training data set. Call `close` when done.

    The coordinator says where to start, so an input process can serve one coordinator after another, and nothing is
    lost when it restarts.

    Args:
        data: `TrainingData` or `EmbeddingData` that nothing else uses. Its own limit of bad records has no effect:
            the coordinator limits the bad records of all shares together.
        index: the number of the share, in [0, count).
        count: number of input processes.
        port: port of the HTTP server; 0 takes a free port.

    Attributes:
        port: port of the HTTP server.

    Raises:
        ValueError: the index is out of range, or the numbers of pairs, streams, and input processes do not divide
            each other.
        OSError: the port is taken, for example by another input process on this host.
    """

    def __init__(self, data: Any, index: int, count: int, port: int = 0):
        if count < 1 or not 0 <= index < count:
            raise ValueError(f"Expected a share index in [0, count). Received: index={index}, count={count}")
        streams = data.streams or count
        if streams % count or data.global_batch % streams:
            raise ValueError(
                f"Expected a global batch that the streams divide, and streams that {count} input processes divide. "
                f"Received: global batch {data.global_batch}, {streams} streams."
            )
        data.streams = streams
        data.bad_record_limit = math.inf  # The coordinator limits the sum over all shares.
        self._data, self.index, self.count = data, index, count
        self._identity = identity(data)
        self._lock = threading.Lock()
        self._session = 0
        self._serving: _Serving | None = None
        self._service: _DataService | None = None
        handler = type("Handler", (_Handler,), {"input_server": self})
        self._http = http.server.ThreadingHTTPServer(("", port), handler)
        self._http.daemon_threads = True
        self.port = self._http.server_address[1]
        self._thread = threading.Thread(target=self._http.serve_forever, daemon=True, name="input server")
        self._thread.start()

    def wait(self) -> None:
        """Serves until the process ends."""
        self._thread.join()

    def close(self) -> None:
        """Stops serving."""
        self._http.shutdown()
        self._http.server_close()
        self._stop_serving()

    # The coordinator calls the following methods over HTTP. Each returns plain JSON.

    def describe(self) -> dict[str, Any]:
        """Describes which share of which batches this process makes."""
        resize = getattr(self._data, "resize_kernel", None)
        return {"identity": self._identity, "index": self.index, "count": self.count, "resize": resize}

    def start(self, host: str, position: dict[str, Any] | None, chunks: int, spec: str) -> dict[str, Any]:
        """Starts a session: the old session ends, and a new data set begins at a position.

        Args:
            host: the name by which other hosts reach this host.
            position: the position of the whole run, or None for its beginning.
            chunks: the number of chunks in a global batch.
            spec: the element spec that the coordinator expects, as text.

        Raises:
            ValueError: the position belongs to other data, or the chunks are not what the coordinator expects.
        """
        with self._lock:
            self._stop_serving()
            data = copy.copy(self._data)  # Use a fresh copy, because the object keeps one position.
            if position is not None:
                check_state(position, data.seed, self._identity["data"], data.streams)
                data.restore(position)
            context = tf.distribute.InputContext(self.count, self.index, chunks)
            dataset = data.dataset(context)
            if str(dataset.element_spec) != spec:
                raise ValueError(f"it makes {dataset.element_spec}, the coordinator expects {spec}.")
            self._session += 1
            self._service = self._service or _DataService(host)
            self._serving = _Serving(data, dataset)
            dataset_id = self._service.register(self._serving.dataset)
            return {"session": self._session, "service": self._service.address, "dataset": dataset_id}

    def state(self, session: int, step: int) -> dict[str, Any]:
        """Returns this share's position after `step` global batches have been consumed."""
        return self._of(session).data.state(step)

    def status(self) -> dict[str, Any]:
        """Returns whether batches are being made, and which records were skipped so far."""
        serving = self._serving
        return {"session": self._session, **(serving.progress() if serving else {})}

    def stop(self, session: int) -> dict[str, Any]:
        """Ends a session, so that no more batches are made in advance."""
        if session == self._session:
            with self._lock:
                self._stop_serving()
        return {}

    def _of(self, session: int) -> _Serving:
        if session != self._session or self._serving is None:
            raise _SessionError(
                f"it serves session {self._session} and not {session}: it was restarted, or another coordinator took "
                "it over."
            )
        return self._serving

    def _stop_serving(self) -> None:
        if self._serving is not None:
            self._serving.close()
            self._serving = None


class _SessionError(RuntimeError):
    pass


class _DataService:
    """A dispatcher and a worker of tf.data service that run in this process until it ends.

    They are never stopped. Stopping them would deadlock: it waits for Python functions of the data sets while it holds
    Python's lock.

    Args:
        host: the name by which clients reach this machine.
    """

    def __init__(self, host: str):
        # The garbage collection frees the jobs of a coordinator that was killed.
        self._dispatcher = service.DispatchServer(
            service.DispatcherConfig(port=0, job_gc_check_interval_ms=5_000, job_gc_timeout_ms=10_000)
        )
        port = self._dispatcher.target.rpartition(":")[2]
        self._worker = service.WorkerServer(
            service.WorkerConfig(dispatcher_address=f"localhost:{port}", worker_address=f"{host}:%port%", port=0)
        )
        self.address = f"grpc://{host}:{port}"
        self._datasets: list[tf.data.Dataset] = []

    def register(self, dataset: tf.data.Dataset) -> str:
        """Offers a data set to clients, and returns its id."""
        # Keep a reference: the data set's Python functions die with it, and an old client may still read it.
        self._datasets.append(dataset)
        return _text(service.register_dataset(self._dispatcher.target, dataset, compression=None))


class _Serving:
    """One session: its data set, and counts of the batches that were made and taken.

    A coordinator may iterate over a data set more than once, as Keras does. The newest iteration is the one counted.
    """

    def __init__(self, data: Any, dataset: tf.data.Dataset):
        self.data = data
        self._iteration = 0
        self._made = self._taken = 0
        self._changed = time.monotonic()
        self._closed = False
        numbers = tf.data.Dataset.range(ENDLESS).scan(tf.constant(-1, tf.int64), _as_written(self._number))
        made = tf.data.Dataset.zip(numbers, dataset).map(_counting(self._note_made))
        counted = made.prefetch(1).map(_counting(self._note_taken)).map(_as_written(lambda _, batch: batch))
        options = tf.data.Options()
        options.deterministic = True
        self.dataset = counted.with_options(options)

    def _number(self, before: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the number of an iteration, which is assigned at its first batch."""
        number = tf.cond(before < 0, lambda: tf.numpy_function(self._begin, [], tf.int64), lambda: before)
        number = tf.ensure_shape(number, [])
        return number, number

    def _begin(self) -> np.int64:
        self._iteration += 1
        self._made = self._taken = 0
        self._changed = time.monotonic()
        return np.int64(self._iteration)

    def _note_made(self, iteration: int) -> None:
        if self._closed:
            raise _SessionError("The session is over.")
        if iteration == self._iteration:
            self._made += 1
            self._changed = time.monotonic()

    def _note_taken(self, iteration: int) -> None:
        if iteration == self._iteration:
            self._taken += 1
            self._changed = time.monotonic()

    def progress(self) -> dict[str, Any]:
        """Returns the progress. `waited` is how long no batch has been ready, in seconds, or 0 if one is ready."""
        starved = self._made <= self._taken
        records = getattr(self.data, "progress", None)  # Stored embeddings have no broken records.
        return {
            "made": self._made,
            "waited": time.monotonic() - self._changed if starved else 0.0,
            **(records() if records else {}),
        }

    def close(self) -> None:
        """Ends the data set with an error, so that it makes no batches for a coordinator that has ended."""
        self._closed = True


def _counting(note: Callable[[int], None]) -> Callable[..., tuple[tf.Tensor, dict[str, tf.Tensor]]]:
    def count(iteration: np.int64) -> np.int64:
        note(int(iteration))
        return iteration

    @_as_written
    def passed_on(iteration: tf.Tensor, batch: dict[str, tf.Tensor]) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        counted = tf.ensure_shape(tf.numpy_function(count, [iteration], tf.int64), [])
        with tf.control_dependencies([counted]):
            return counted, tf.nest.map_structure(tf.identity, batch)

    return passed_on


def _text(value: Any) -> str:
    """Returns a data set's id as text. TensorFlow returns it as a tensor of bytes or as a number."""
    value = value.numpy() if hasattr(value, "numpy") else value
    return value.decode() if isinstance(value, bytes) else str(value)


class _Handler(http.server.BaseHTTPRequestHandler):
    """Answers GET /describe, /status and POST /start, /state, /stop with the server's methods of the same names."""

    input_server: InputServer

    def do_GET(self) -> None:
        self._answer({"/describe": self.input_server.describe, "/status": self.input_server.status}, {})

    def do_POST(self) -> None:
        try:
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        except ValueError as error:
            self._send(400, {"error": f"expected a JSON body: {error}"})
            return
        own = self.input_server
        self._answer({"/start": own.start, "/state": own.state, "/stop": own.stop}, body)

    def _answer(self, known: dict[str, Callable[..., dict[str, Any]]], body: Any) -> None:
        if self.path not in known or not isinstance(body, dict):
            self._send(
                404, {"error": f"{self.command} {self.path} is not a known request, or its body is not a JSON object."}
            )
            return
        try:
            self._send(200, known[self.path](**body))
        except _SessionError as error:
            self._send(409, {"error": str(error), "session": True})
        except Exception as error:  # The coordinator shows any error.
            self._send(
                400, {"error": f"{error}" if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"}
            )

    def _send(self, status: int, content: dict[str, Any]) -> None:
        text = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: Any) -> None:
        """Does not log requests, because the coordinator asks for the status every few seconds."""
