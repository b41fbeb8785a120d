"""Training speed and the time left, as a line of progress and as metrics."""

import sys
import time
from collections import deque
from collections.abc import Callable
from typing import TextIO

import keras

from siglip_tf.training.metric_values import scalars

_SHOWN = {"loss": "loss", "temperature": "t", "bias": "b", "gradient_norm": "|g|"}


class Speed:
    """Measures images per second over the last minute. The first step is excluded, because it compiles.

    Args:
        global_batch_size: number of pairs per step over all replicas.
        chips: number of replicas.
        bound: the highest number of pairs per second that the hardware allows, if known.
        clock: a monotonic clock that returns seconds.

    Raises:
        ValueError: if `global_batch_size` or `chips` is below 1.
    """

    def __init__(
        self,
        global_batch_size: int,
        chips: int = 1,
        bound: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        for name, value in (("global_batch_size", global_batch_size), ("chips", chips)):
            if value < 1:
                raise ValueError(f"Expected {name} >= 1. Received: {name}={value}")
        self.global_batch_size = global_batch_size
        self.chips = chips
        self.bound = bound
        self.clock = clock
        self._ticks: deque[tuple[float, int]] = deque()

    def tick(self, step: int) -> None:
        """Records that `step` steps are done."""
        now = self.clock()
        self._ticks.append((now, step))
        while len(self._ticks) > 2 and now - self._ticks[1][0] > 60.0:
            self._ticks.popleft()

    def exclude(self, seconds: float) -> None:
        """Excludes seconds that were not spent on training."""
        self._ticks = deque((time + seconds, step) for time, step in self._ticks)

    def figures(self, steps_left: int | None = None) -> dict[str, float]:
        """Returns those of `images_per_second`, `images_per_second_per_chip`, `share_of_bound`, and `seconds_left` that
        are known."""
        if len(self._ticks) < 2 or self._ticks[-1][0] <= self._ticks[0][0]:
            return {}
        (start, first), (end, last) = self._ticks[0], self._ticks[-1]
        steps_per_second = (last - first) / (end - start)
        images = steps_per_second * self.global_batch_size
        figures = {"images_per_second": images, "images_per_second_per_chip": images / self.chips}
        if self.bound:
            figures["share_of_bound"] = images / self.bound
        if steps_left is not None and steps_per_second > 0:
            figures["seconds_left"] = steps_left / steps_per_second
        return figures


def duration_text(seconds: float) -> str:
    """Formats a duration, for example "45 s", "12 min 5 s", "3 h 12 min", or "4 d 7 h"."""
    seconds = max(0, round(seconds))
    for size, unit, smaller_size, smaller in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if seconds >= size:
            rest = seconds % size // smaller_size
            return f"{seconds // size} {unit} {rest} {smaller}" if rest else f"{seconds // size} {unit}"
    return f"{seconds} s"


def number_text(value: float) -> str:
    """Formats a number, for example "1,234", "12.3", or "0.0123"."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


class ProgressLine(keras.callbacks.Callback):
    """Shows one line of progress. A terminal shows it in place; other outputs get a new line now and then.

        step 1,200/65,000  1.8 %  loss 3.214  t 12.1  b -9.87  |g| 0.43  1,234 images/s  41 % of bound  3 h 12 min left

    Args:
        total_steps: number of steps of the whole run.
        speed: the run's `Speed`.
        step: a function that returns the number of steps done (`lambda: resume.step`).
        every_seconds: seconds between lines. The default is 0.5 in a terminal and 30 elsewhere.
        stream: the output stream, by default standard error. With several processes, only one should show progress.
        evaluation: a function that returns a short summary of the last evaluation.
    """

    def __init__(
        self,
        total_steps: int,
        speed: Speed,
        step: Callable[[], int],
        *,
        every_seconds: float | None = None,
        stream: TextIO | None = None,
        evaluation: Callable[[], str] | None = None,
    ):
        super().__init__()
        self.total_steps = total_steps
        self.speed = speed
        self.step = step
        self.evaluation = evaluation
        self.stream = stream if stream is not None else sys.stderr
        self.rewrites = self.stream.isatty()
        self.every_seconds = every_seconds if every_seconds is not None else (0.5 if self.rewrites else 30.0)
        self._written_at: float | None = None
        self._width = 0

    def line(self, logs: dict[str, float]) -> str:
        """Returns the line for the current step."""
        step = self.step()
        figures = self.speed.figures(self.total_steps - step)
        parts = [f"step {step:,}/{self.total_steps:,}", f"{100 * step / self.total_steps:.1f} %"]
        parts += [f"{short} {number_text(logs[name])}" for name, short in _SHOWN.items() if name in logs]
        if self.evaluation is not None and (found := self.evaluation()):
            parts.append(found)
        if "images_per_second" in figures:
            speed = f"{number_text(figures['images_per_second'])} images/s"
            if self.speed.chips > 1:
                speed += f" ({number_text(figures['images_per_second_per_chip'])} a chip)"
            parts.append(speed)
        if "share_of_bound" in figures:
            parts.append(f"{100 * figures['share_of_bound']:.0f} % of bound")
        if "seconds_left" in figures:
            parts.append(f"{duration_text(figures['seconds_left'])} left")
        return "  ".join(parts)

    def on_train_begin(self, logs=None):
        self._written_at = None
        self._write(f"step {self.step():,}/{self.total_steps:,}  building the first step")

    def on_train_batch_end(self, batch, logs=None):
        now = self.speed.clock()
        if self._written_at is None or now - self._written_at >= self.every_seconds or self.step() >= self.total_steps:
            self._written_at = now
            self._write(self.line(scalars(logs)))

    def on_train_end(self, logs=None):
        if self.rewrites and self._width:
            self.stream.write("\n")
            self.stream.flush()
            self._width = 0

    def _write(self, line: str) -> None:
        self.stream.write(f"\r{line:<{self._width}}" if self.rewrites else f"{line}\n")
        self._width = len(line)
        self.stream.flush()
