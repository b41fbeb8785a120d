"""The coordinator's training data: batches that input processes make, with the interface of `TrainingData`."""

from __future__ import annotations

import contextlib
import copy
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.data.experimental import service

from siglip_tf.data.order.position import check_one_kernel, check_state, merge_states
from siglip_tf.data.order.shares import own_batches
from siglip_tf.data.service import watch as watch_module
from siglip_tf.data.service.client import InputClient, InputProcessError
from siglip_tf.data.service.identity import check_complete, check_same, identity
from siglip_tf.data.service.shares import Cut, cut, put_together
from siglip_tf.primitives.tensorflow_internals import Cancellation


class ServedData:
    """Training batches that input processes make. They are the same batches that one host would make.

    Args:
        data: the coordinator's own `TrainingData` or `EmbeddingData` of the same recipe. The input processes must
            agree with it. It is not read.
        addresses: "host:port" of every input process. Process `i` of `n` feeds host `i // (n / hosts)`.
        wait: seconds to wait for input processes that do not answer yet.
        silent: seconds without an answer after which `guard` ends training.
        stalled: seconds without a batch after which `guard` ends training.

    Raises:
        InputProcessError: an input process does not answer.
        ValueError: the input processes make other batches, or a share is not made exactly once.

    Example:
        data = ServedData(TrainingData(source, preprocessing, 4096), ["host0:5050", "host1:5050"])
        with data.guard():
            model.fit(strategy.distribute_datasets_from_function(data.dataset), steps_per_epoch=1000)
    """

    def __init__(
        self,
        data: Any,
        addresses: Sequence[str],
        *,
        wait: float = 120.0,
        silent: float = watch_module.SILENT,
        stalled: float = watch_module.STALLED,
    ):
        if not addresses:
            raise ValueError("Expected the address of at least one input process.")
        if len(set(addresses)) < len(addresses):
            raise ValueError(f"Expected input processes with different addresses. Received: {', '.join(addresses)}")
        data = copy.copy(data)
        data.streams = data.streams or len(addresses)
        self._data = data
        self._silent, self._stalled = silent, stalled
        clients = {address: InputClient(address) for address in addresses}
        own, described = identity(data), {}
        for address, client in clients.items():
            client.wait(wait)
            described[address] = client.get("describe")
        self._clients = [clients[address] for address in check_complete(described)]
        for address, theirs in described.items():
            check_same(address, theirs["identity"], own)
        self._kernels = {address: theirs.get("resize") for address, theirs in described.items()}
        self._position: dict[str, Any] | None = None
        # The spec is found here, because `dataset` is called on the devices of hosts without this project's ops.
        self._spec = copy.copy(data).dataset().element_spec
        self._cut: Cut | None = None
        self._served: dict[InputClient, dict[str, Any]] = {}
        self._fault: Exception | None = None
        self._watch: watch_module.InputWatch | None = None
        self._cancellation: Cancellation | None = None
        self._left = threading.Event()

    def __getattr__(self, name: str) -> Any:
        """Returns any other attribute of the training data, such as `seed` or `global_batch`."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._data, name)

    @property
    def resize_kernel(self) -> None:
        """None, because the input processes resize the pictures; their kernels are compared with each other."""

    def restore(self, state: dict[str, Any]) -> None:
        """Restores a saved position: the next `dataset` begins there. See `TrainingData.restore`."""
        own = identity(self._data)
        check_state(state, own["seed"], own["data"], own["streams"])
        self._position = state
        self._served = {}

    def dataset(self, context: tf.distribute.InputContext | None = None) -> tf.data.Dataset:
        """Returns the endless batches of one host, from the restored position or from the beginning.

        Args:
            context: as `strategy.distribute_datasets_from_function(data.dataset)` passes it; each batch is then one
                replica's. None means a single host, whose batches are whole global batches.

        Raises:
            InputProcessError: an input process does not answer.
            ValueError: the numbers of pairs, input processes, hosts, and replicas do not divide each other.
        """
        host, hosts, replicas = 0, 1, 1
        if context is not None:
            host, hosts = context.input_pipeline_id, context.num_input_pipelines
            replicas = context.num_replicas_in_sync
        parts = self._start(hosts, replicas)
        mine = self._clients[host * self._cut.inputs_a_host : (host + 1) * self._cut.inputs_a_host]
        return own_batches(put_together([parts[client] for client in mine], self._cut), prefetch=2)

    def _start(self, hosts: int, replicas: int) -> dict[InputClient, tf.data.Dataset]:
        """Starts a session on all input processes, unless one is running. Returns their data sets on this device."""
        spec = self._spec
        pair_bytes = sum(
            int(np.prod(part.shape[1:], dtype=np.int64)) * part.dtype.size for part in tf.nest.flatten(spec)
        )
        wanted = cut(self._data.global_batch, pair_bytes, len(self._clients), hosts, replicas)
        chunk = self._data.global_batch // wanted.chunks
        spec = tf.nest.map_structure(lambda part: tf.TensorSpec((chunk, *part.shape[1:]), part.dtype), spec)
        if not (self._position or {}).get("resize"):  # A position may say which kernel all processes use.
            check_one_kernel(self._kernels)
        if not self._served or wanted != self._cut:
            self._stop_watch()
            self._cut = wanted
            self._served = {}
            for client in self._clients:
                body = {"position": self._position, "chunks": wanted.chunks, "spec": str(spec), "host": client.host}
                self._served[client] = client.post("start", body)
            self._watch_again()
        return {
            client: service.from_dataset_id(
                service.ShardingPolicy.OFF, service=at["service"], dataset_id=at["dataset"], element_spec=spec
            )
            for client, at in self._served.items()
        }

    def state(self, step: int) -> dict[str, Any]:
        """Returns the position of all shares after the training loop has consumed `step` global batches.

        Raises:
            InputProcessError: an input process does not answer.
            ValueError: `dataset` has not been called, or the step is before the restored one.
        """
        if not self._served:
            if self._position is not None and self._position["step"] == step:
                return self._position
            raise ValueError("The position is not known yet. Call `dataset` first.")
        found = []
        for client, at in self._served.items():
            found.append(client.post("state", {"session": at["session"], "step": step}))
        return merge_states(found)

    def accounting(self, step: int) -> dict[str, Any]:
        """Counts all records up to a step: `{"read", "used", "skipped", "by_cause"}`, where read = used + skipped."""
        state = self.state(step)
        read, skipped = sum(state["passed"].values()), sum(state["skipped"].values())
        return {"read": read, "used": read - skipped, "skipped": skipped, "by_cause": state["skipped"]}

    @contextlib.contextmanager
    def guard(self) -> Iterator[None]:
        """Returns a context for training, in which a fault of an input process ends the step that waits for it.

        A step that waits for a batch cannot notice the fault by itself. The guard cancels the step and raises an error
        that says what is wrong. If the step cannot be canceled, the process ends with the same message.

        Raises:
            InputProcessError: an input process has ended, stalled, restarted, or been taken over by another
                coordinator.
            TooManyBadRecordsError: all input processes together skipped more records than the limit allows.
        """
        self._left.clear()
        self._cancellation = Cancellation()
        self._watch_again()
        try:
            with self._cancellation:
                yield
        except tf.errors.OpError as error:
            self._left.set()
            fault = self._fault or self._look_for_fault(error)
            if fault is None:
                raise
            raise fault from error
        finally:
            self._left.set()
            self._stop_watch()
            self._cancellation = None
            self._stop_sessions()

    def _stop_watch(self) -> None:
        if self._watch is not None:
            self._watch.stop()
            self._watch = None

    def _watch_again(self) -> None:
        self._stop_watch()
        if self._cancellation is not None and self._served:
            sessions = {client: at["session"] for client, at in self._served.items()}
            limit = getattr(self._data, "bad_record_limit", 1.0)
            self._watch = watch_module.InputWatch(sessions, limit, self._on_fault, self._silent, self._stalled)

    def _on_fault(self, error: Exception) -> None:
        self._fault = error
        if self._cancellation is not None:
            self._cancellation.cancel()
            watch_module.leave_or_end(self._left, error)

    def _look_for_fault(self, error: Exception) -> Exception | None:
        """Finds the fault behind a data set's error, if an input process ended before the watch noticed it."""
        for client in self._clients:
            try:
                status = client.get("status", timeout=5.0)
            except InputProcessError as gone:
                return InputProcessError(f"{gone} TensorFlow says: {str(error).splitlines()[0][:200]}")
            served = self._served.get(client)
            if served is not None and status["session"] != served["session"]:
                return InputProcessError(f"The input process at {client.address} was restarted or taken over.")
        return None

    def _stop_sessions(self) -> None:
        for client, at in self._served.items():
            with contextlib.suppress(InputProcessError, ValueError):  # It has ended or serves another coordinator.
                client.post("stop", {"session": at["session"]}, timeout=5.0)
        self._served = {}
