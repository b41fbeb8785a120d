"""How fast training goes and when it ends: one line for people, and the same figures as metrics."""

import sys
import time
from collections import deque
from collections.abc import Callable
from typing import TextIO

import keras

from siglip_tf.training.metric_values import scalars

_SHOWN = {"loss": "loss", "temperature": "t", "bias": "b", "gradient_norm": "|g|"}


class Speed:
    """Images a second over the last minute, without the first step, which compiles.

    Args:
        global_batch_size: pairs per step over all replicas.
        chips: replicas.
        bound: pairs per second that the hardware allows at best, if known.
        clock: seconds, monotonic.
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
        """Notes that `step` steps are done."""
        now = self.clock()
        self._ticks.append((now, step))
        while len(self._ticks) > 2 and now - self._ticks[1][0] > 60.0:
            self._ticks.popleft()

    def exclude(self, seconds: float) -> None:
        """Leaves out seconds that were not spent on training."""
        self._ticks = deque((time + seconds, step) for time, step in self._ticks)

    def figures(self, steps_left: int | None = None) -> dict[str, float]:
        """`images_per_second`, `..._per_chip`, `share_of_bound` and `seconds_left`, as far as known."""
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
    """45 s, 12 min 5 s, 3 h 12 min, 4 d 7 h."""
    seconds = max(0, round(seconds))
    for size, unit, smaller_size, smaller in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if seconds >= size:
            rest = seconds % size // smaller_size
            return f"{seconds // size} {unit} {rest} {smaller}" if rest else f"{seconds // size} {unit}"
    return f"{seconds} s"


def number_text(value: float) -> str:
    """1,234 or 12.3 or 0.0123."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


class ProgressLine(keras.callbacks.Callback):
    """One line of progress: rewritten in a terminal, printed now and then elsewhere.

        step 1,200/65,000  1.8 %  loss 3.214  t 12.1  b -9.87  |g| 0.43  1,234 images/s  41 % of bound  3 h 12 min left

    Args:
        total_steps: steps of the whole run.
        speed: the run's `Speed`.
        step: returns the number of steps done (`lambda: resume.step`).
        every_seconds: between lines; 0.5 in a terminal and 30 elsewhere by default.
        stream: where to write; only one of several processes should have one.
        evaluation: returns what the last evaluation found, in a few words.
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
        """The line for the present step."""
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
