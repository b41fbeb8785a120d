"""Watches the input processes of a session, so that no step waits for one that has ended."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from siglip_tf.data.order.bad_records import TooManyBadRecordsError
from siglip_tf.data.order.position import allowed_bad_records, counts_text, too_many_bad_records
from siglip_tf.data.service.client import InputClient, InputProcessError

_POLL = 3.0
# How many seconds a process may be silent, and a consumer may wait for its next batch. With the time of a poll and the
# time that a step needs to end, a fault ends the step within a minute.
SILENT = 30.0
STALLED = 40.0
# The first batch takes longer, because it opens files, fills buffers, and compiles.
FIRST_BATCH = 600.0
# How many seconds a blocked step has to end after it was canceled.
_GRACE = 10.0


class InputWatch:
    """A thread that polls the status of every input process and calls `on_fault` once when something is wrong.

    Args:
        clients: maps the client of every input process to its session.
        limit: the limit of bad records over all shares, see `TrainingData`.
        on_fault: called in the thread with the error.
        silent: this many seconds without an answer are a fault.
        stalled: this many seconds without a batch are a fault.
    """

    def __init__(
        self,
        clients: Mapping[InputClient, int],
        limit: float,
        on_fault: Callable[[Exception], None],
        silent: float = SILENT,
        stalled: float = STALLED,
    ):
        self._clients = dict(clients)
        self._limit = limit
        self._on_fault = on_fault
        self._silent = silent
        self._stalled = stalled
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="input watch")
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread."""
        self._stopping.set()

    def _run(self) -> None:
        heard = dict.fromkeys(self._clients, time.monotonic())
        while not self._stopping.wait(min(_POLL, self._silent / 4)):
            statuses = []
            for client, session in self._clients.items():
                try:
                    status = client.get("status", timeout=min(10.0, self._silent / 2))
                    self._check(client, session, status)
                except InputProcessError as error:
                    silence = time.monotonic() - heard[client]
                    if silence < self._silent and error.__cause__ is not None:
                        continue
                    self._report(error if error.__cause__ is None else _silent_error(client, silence, error))
                    return
                except Exception as error:  # Any other error is a fault, too, and must not end this thread silently.
                    self._report(error)
                    return
                heard[client] = time.monotonic()
                statuses.append(status)
            try:
                check_limit(statuses, self._limit)
            except TooManyBadRecordsError as error:
                self._report(error)
                return

    def _check(self, client: InputClient, session: int, status: Mapping[str, Any]) -> None:
        if status["session"] != session or "made" not in status:
            raise InputProcessError(
                f"The input process at {client.address} was restarted, or another coordinator took it over. Input "
                "processes serve one coordinator at a time."
            )
        if status["waited"] > (self._stalled if status["made"] else max(FIRST_BATCH, self._stalled)):
            raise InputProcessError(
                f"The input process at {client.address} has made no batch for {status['waited']:.0f} s. Look at its "
                "log and at its storage."
            )

    def _report(self, error: Exception) -> None:
        if not self._stopping.is_set():
            self._on_fault(error)


def _silent_error(client: InputClient, silence: float, error: Exception) -> InputProcessError:
    return InputProcessError(
        f"The input process at {client.address} has not answered for {silence:.0f} s ({error.__cause__}). Start it "
        "again if it has ended."
    )


def check_limit(statuses: Sequence[Mapping[str, Any]], limit: float) -> None:
    """Raises an error if all shares together have more broken records than the limit allows.

    Raises:
        TooManyBadRecordsError: there are too many.
    """
    causes: Counter[str] = Counter()
    for status in statuses:
        causes.update(status.get("skipped", {}))
    passed = sum(status.get("passed", 0) for status in statuses)
    if causes.total() > allowed_bad_records(passed, limit):
        raise too_many_bad_records(causes.total(), passed, counts_text(causes), limit)


def leave_or_end(has_left: threading.Event, error: Exception) -> None:
    """Ends this process if a canceled step does not end by itself.

    A step that waits for a batch inside TensorFlow's C++ code cannot receive a Python exception. Ending the process
    damages no checkpoint, because checkpoints are renamed into place.
    """
    if not has_left.wait(_GRACE):
        print(f"error: {error} The same command continues.", file=sys.stderr, flush=True)
        os._exit(3)
