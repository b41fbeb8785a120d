"""Shows progress on one line of a terminal, or on occasional lines of a log."""

import sys
import time


class ProgressLine:
    """Writes the progress of a tool to stderr, at most every half second on a terminal.

    Args:
        log_seconds: seconds between two lines if stderr is not a terminal. None writes nothing there.
    """

    _TERMINAL_SECONDS = 0.5

    def __init__(self, log_seconds: float | None):
        self._terminal = sys.stderr.isatty()
        self._silent = not self._terminal and log_seconds is None
        self._seconds = self._TERMINAL_SECONDS if self._terminal else log_seconds
        self._said = float("-inf")

    def say(self, text: str, *, last: bool) -> None:
        """Shows the text if enough time has passed. The last text is always shown."""
        if self._silent or (not last and time.monotonic() - self._said < self._seconds):
            return
        self._said = time.monotonic()
        end = "\n" if last or not self._terminal else ""
        print(f"\r\033[K{text}" if self._terminal else text, end=end, file=sys.stderr, flush=True)


def clock(seconds: float) -> str:
    """Formats a duration as minutes and seconds, for example "1:05"."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d}"
