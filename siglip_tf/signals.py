"""Makes signals end a process even while it waits inside TensorFlow.

Python runs a signal's handler in the main thread, between two Python instructions. While the main thread waits inside
TensorFlow (for data, for another worker, or for a disk), the handler does not run. Therefore a second thread also
receives every signal, by `signal.set_wakeup_fd`, and ends the process if the main thread does not respond in time.
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
_PROMPT = 2.0  # seconds that a main thread with nothing to save may take to respond
_POLL = 0.1


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class _SignalThread:
    """A thread that receives every signal with a Python handler, and checks that the main thread responds in time.

    Args:
        signals: the signals to watch.
        seen: a function that is called with a signal's number and how often it was received.
        patience: a function that returns the seconds after a signal until `late` is called.
        late: a function that is called with the signal's number.
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
        """Ends the thread. The main thread calls this when it responds."""
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
                if self._before >= 0:  # an event loop needs the signal too
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
    """Records SIGTERM and SIGINT for a loop that stops after its current step, and ends the process if the loop hangs.

    The first signal is recorded in `received`. After every step, the loop must check it, save, and stop. If the loop
    does not stop in time (see `grace`), or a second signal of the same kind arrives, the process ends at once with the
    exit code 128 + the signal's number.

    Args:
        signals: the signals to record.
        grace: a function that returns how many seconds the loop may take to stop after a signal. Zero means that there
            is nothing to save. Then the handler itself raises `SystemExit`, and the process ends soon, even inside
            TensorFlow.
        lost: a function that returns a sentence about what remains if the process ends before the loop stops.
        end: a function that ends the process. The default is `os._exit`, which no thread can block.
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
        """Starts to record signals. In another thread this does nothing, as only the main thread receives signals."""
        if threading.current_thread() is not threading.main_thread() or self._thread is not None:
            return
        for number in self.signals:
            self._before[number] = signal.signal(number, self._note)
        self._thread = _SignalThread(self.signals, self._seen, lambda: max(self._grace(), _PROMPT), self._late)

    def remove(self) -> None:
        """Restores the previous handlers."""
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
    """Makes Ctrl-C end a command within seconds with exit code 130, wherever its main thread waits.

    Python's own handler raises `KeyboardInterrupt` when the main thread returns from TensorFlow. If it does not return
    within two seconds, the process is ended.

    Args:
        end: a function that ends the process.
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
