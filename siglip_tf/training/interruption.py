"""Signals that ask a run to stop: noted at once, obeyed at the end of a step."""

import signal
import threading
from types import FrameType


class Interruption:
    """Notes SIGTERM and SIGINT; a second one of the same kind is handled as it was before.

    Args:
        signals: the signals to note.
    """

    def __init__(self, signals: tuple[int, ...] = (signal.SIGTERM, signal.SIGINT)):
        self.signals = signals
        self.received: int | None = None
        self._before: dict[int, object] = {}

    def install(self) -> None:
        """Starts noting. Python delivers signals to the main thread alone, so elsewhere this does nothing."""
        if threading.current_thread() is not threading.main_thread() or self._before:
            return
        for number in self.signals:
            self._before[number] = signal.signal(number, self._note)

    def remove(self) -> None:
        """Puts back the handlers that were there before."""
        if threading.current_thread() is threading.main_thread():
            while self._before:
                number, handler = self._before.popitem()
                signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        signal.signal(number, self._before.pop(number))
