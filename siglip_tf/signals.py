"""Signals that end a process, whatever it waits for.

Python runs a signal's handler in the main thread, between two of its own instructions. A main thread that waits inside
TensorFlow (for data, for another worker, for a disk) never comes to it. So a second thread learns of every signal too,
by `signal.set_wakeup_fd`, and ends the process when the main thread does not answer in time.
"""

import collections
import contextlib
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_PROMPT = 2.0  # seconds for a main thread that has nothing to save
_POLL = 0.1


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class _SignalThread:
    """A thread that sees every signal with a Python handler, and how long the main thread does not answer it.

    Args:
        signals: the signals that count.
        seen: called with a signal's number and how often it came.
        patience: seconds after a signal until `late` is called.
        late: called with the signal's number.
    """

    def __init__(
        self,
        signals: Collection[int],
        seen: Callable[[int, int], None],
        patience: Callable[[], float],
        late: Callable[[int], None],
    ):
        self._signals, self._seen, self._patience, self._late = signals, seen, patience, late
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._before = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._watch, name="signals", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the thread: the main thread has answered."""
        signal.set_wakeup_fd(self._before)
        self._writer.close()
        self._thread.join()
        self._reader.close()

    def _watch(self) -> None:
        counts: collections.Counter[int] = collections.Counter()
        first, begin = None, 0.0
        while True:
            waiting = None if first is None else _POLL
            if select.select([self._reader], [], [], waiting)[0]:
                numbers = self._reader.recv(64)
                if not numbers:
                    return
                if self._before >= 0:  # an event loop wants to know too
                    with contextlib.suppress(OSError):
                        os.write(self._before, numbers)
                for number in numbers:
                    if number in self._signals:
                        counts[number] += 1
                        first, begin = (number, time.monotonic()) if first is None else (first, begin)
                        self._seen(number, counts[number])
            elif first is not None and time.monotonic() - begin > self._patience():
                number, first = first, None
                self._late(number)


class Interruption:
    """Notes SIGTERM and SIGINT for a loop that ends at its next step, and ends the process if no step comes.

    The first signal is noted in `received`. The owner of the loop looks there after every step, saves and leaves. If it
    does not leave in time (see `grace`), or a second signal of the same kind arrives, the process ends at once with
    exit code 128 + the signal's number.

    Args:
        signals: the signals to note.
        grace: returns how many seconds the loop has to leave after a signal. Zero means that there is nothing to save:
            then the handler raises `SystemExit` itself, and the process ends soon even inside TensorFlow.
        lost: returns a sentence on what the process leaves behind when it ends without the loop.
        end: ends the process; `os._exit`, which no thread can hold up.
    """

    def __init__(
        self,
        signals: tuple[int, ...] = _SIGNALS,
        grace: Callable[[], float] = lambda: 10.0,
        lost: Callable[[], str] = lambda: "",
        end: Callable[[int], Any] = os._exit,
    ):
        self.signals = signals
        self.received: int | None = None
        self._grace = grace
        self._lost = lost
        self._end = end
        self._before: dict[int, Any] = {}
        self._thread: _SignalThread | None = None

    def install(self) -> None:
        """Begins to note. Python delivers signals to the main thread alone, so elsewhere this does nothing."""
        if threading.current_thread() is not threading.main_thread() or self._thread is not None:
            return
        for number in self.signals:
            self._before[number] = signal.signal(number, self._note)
        self._thread = _SignalThread(self.signals, self._seen, lambda: max(self._grace(), _PROMPT), self._late)

    def remove(self) -> None:
        """Puts back the handlers that were there before."""
        if threading.current_thread() is not threading.main_thread() or self._thread is None:
            return
        thread, self._thread = self._thread, None
        thread.close()
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        if self._grace() <= 0:
            raise SystemExit(128 + number)

    def _seen(self, number: int, count: int) -> None:
        name = signal.Signals(number).name
        if count > 1:
            self._leave(number, f"{name} came {count} times")
        elif self._grace() > 0:
            _tell(f"\n{name}: training stops after this step and saves. A second {name} ends it at once.")

    def _late(self, number: int) -> None:
        self._leave(number, f"{signal.Signals(number).name}, and no step ended in time")

    def _leave(self, number: int, why: str) -> None:
        _tell(f"Ended by a signal ({why}). {self._lost()}".rstrip())
        self._end(128 + number)


@contextlib.contextmanager
def interruptible(end: Callable[[int], Any] = os._exit) -> Iterator[None]:
    """Lets Ctrl-C end a command in seconds with exit code 130, wherever its main thread waits.

    Python's own handler raises `KeyboardInterrupt` when the main thread comes back from TensorFlow. If it does not come
    back in two seconds, the process ends without it.

    Args:
        end: ends the process.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def late(number: int) -> None:
        if signal.getsignal(number) is signal.default_int_handler:
            _tell("Interrupted.")
            end(128 + number)

    thread = _SignalThread((signal.SIGINT,), lambda number, count: None, lambda: _PROMPT, late)
    try:
        yield
    except KeyboardInterrupt:
        _tell("Interrupted.")
        raise SystemExit(128 + signal.SIGINT) from None
    finally:
        thread.close()
