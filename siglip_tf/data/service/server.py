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

from siglip_tf.data.order.position import check_state
from siglip_tf.data.service.identity import identity

_as_written = tf.autograph.experimental.do_not_convert
_ENDLESS = 1 << 62


class InputServer:
    """Serves one share of a training data set; call `close` when done.

    The coordinator says where to start, so an input process outlives coordinators and holds nothing that a restart
    would lose.

    Args:
        data: `TrainingData` or `EmbeddingData`, not used for anything else. Its own limit of bad records does not
            count here: the coordinator limits those of all shares together.
        index: which share, in [0, count).
        count: number of input processes.
        port: of the HTTP server; 0 takes a free one.

    Attributes:
        port: of the HTTP server.

    Raises:
        ValueError: a share that is not there, or a batch or number of streams that the shares do not divide.
        OSError: the port is taken, for example by another input process of this host.
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
        data.bad_record_limit = math.inf  # the coordinator sees all shares and limits their sum
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

    # What the coordinator asks for; each method answers with what JSON can hold.

    def describe(self) -> dict[str, Any]:
        """Which share of which batches this process makes."""
        resize = getattr(self._data, "resize_kernel", None)
        return {"identity": self._identity, "index": self.index, "count": self.count, "resize": resize}

    def start(self, host: str, position: dict[str, Any] | None, chunks: int, spec: str) -> dict[str, Any]:
        """Starts a session: what was served before ends, and a new data set begins at a position.

        Args:
            host: the name by which hosts reach this one.
            position: of the whole run, or None for its beginning.
            chunks: into how many a global batch is cut.
            spec: what a chunk looks like to the coordinator.

        Raises:
            ValueError: a position of other data, or chunks of another kind than the coordinator expects.
        """
        with self._lock:
            self._stop_serving()
            data = copy.copy(self._data)  # pristine: a data set knows one position
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
        """This share's position once `step` global batches are consumed."""
        return self._of(session).data.state(step)

    def status(self) -> dict[str, Any]:
        """Whether batches are made, and what was skipped so far."""
        serving = self._serving
        return {"session": self._session, **(serving.progress() if serving else {})}

    def stop(self, session: int) -> dict[str, Any]:
        """Ends a session, so that nothing is made ahead for nobody."""
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
    """A dispatcher and a worker of tf.data service in this process, as long as it lives.

    They are never stopped: that waits for Python functions of the data sets while it keeps Python from running.

    Args:
        host: the name by which clients reach this machine.
    """

    def __init__(self, host: str):
        # What a coordinator that was killed leaves behind is freed after a while.
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
        """Offers a data set to clients; returns its id."""
        # Its Python functions are found only as long as it lives, and a client of before may still ask for it.
        self._datasets.append(dataset)
        return _text(service.register_dataset(self._dispatcher.target, dataset, compression=None))


class _Serving:
    """One session: its data set, and a count of the batches that were made and taken.

    A coordinator may iterate more than once over a data set, as Keras does; the newest iteration counts.
    """

    def __init__(self, data: Any, dataset: tf.data.Dataset):
        self.data = data
        self._iteration = 0
        self._made = self._taken = 0
        self._changed = time.monotonic()
        self._closed = False
        numbers = tf.data.Dataset.range(_ENDLESS).scan(tf.constant(-1, tf.int64), _as_written(self._number))
        made = tf.data.Dataset.zip(numbers, dataset).map(_counting(self._note_made))
        counted = made.prefetch(1).map(_counting(self._note_taken)).map(_as_written(lambda _, batch: batch))
        options = tf.data.Options()
        options.deterministic = True
        self.dataset = counted.with_options(options)

    def _number(self, before: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The number of an iteration, drawn at its first batch."""
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
        """`waited`: seconds since when a consumer finds nothing ready; 0 while something is."""
        starved = self._made <= self._taken
        records = getattr(self.data, "progress", None)  # stored embeddings have no broken records
        return {
            "made": self._made,
            "waited": time.monotonic() - self._changed if starved else 0.0,
            **(records() if records else {}),
        }

    def close(self) -> None:
        """Makes the data set end by an error, so that nothing is made for a coordinator that is gone."""
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
    """A data set's id, which TensorFlow returns as a tensor of bytes, or as a number."""
    value = value.numpy() if hasattr(value, "numpy") else value
    return value.decode() if isinstance(value, bytes) else str(value)


class _Handler(http.server.BaseHTTPRequestHandler):
    """Answers GET /describe, /status and POST /start, /state, /stop by the server's methods of the same names."""

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
            self._send(404, {"error": f"there is no {self.command} {self.path} here, or its body is no JSON object."})
            return
        try:
            self._send(200, known[self.path](**body))
        except _SessionError as error:
            self._send(409, {"error": str(error), "session": True})
        except Exception as error:  # whatever is wrong, the coordinator is told and shows it
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
        """Requests are not logged: a status is asked for every few seconds."""
