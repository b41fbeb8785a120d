"""Progress on one line of a terminal, or now and then on lines of a log."""

import sys
import time


class ProgressLine:
    """Says on stderr how far a tool is, and no more often than anyone reads.

    Args:
        log_seconds: between two lines where stderr is no terminal; None says nothing there.
    """

    _TERMINAL_SECONDS = 0.5

    def __init__(self, log_seconds: float | None):
        self._terminal = sys.stderr.isatty()
        self._silent = not self._terminal and log_seconds is None
        self._seconds = self._TERMINAL_SECONDS if self._terminal else log_seconds
        self._said = float("-inf")

    def say(self, text: str, *, last: bool) -> None:
        """Shows the text if it is time to, the last one always."""
        if self._silent or (not last and time.monotonic() - self._said < self._seconds):
            return
        self._said = time.monotonic()
        end = "\n" if last or not self._terminal else ""
        print(f"\r\033[K{text}" if self._terminal else text, end=end, file=sys.stderr, flush=True)


def clock(seconds: float) -> str:
    """A span of time as minutes and seconds, 1:05."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d}"
