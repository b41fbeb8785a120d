"""Line charts as inline SVG. The page's CSS variables define the colors."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from siglip_tf import pages

_WIDTH, _HEIGHT = 480, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 14, 12, 30


@dataclass(frozen=True)
class Series:
    """A line of a chart: its name in the legend, and its points. The coordinates must be finite."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


def line_chart(series: Sequence[Series], x_label: str, log_y: bool = False, reference: float | None = None) -> str:
    """Draws one chart.

    Args:
        series: up to four lines.
        x_label: the name of the horizontal axis.
        log_y: whether the vertical axis is logarithmic. Then all values must be positive.
        reference: a value that a dashed line marks.

    Returns:
        An `<svg>` element as `markupsafe.Markup`.
    """
    from markupsafe import Markup

    xs = [x for line in series for x in line.x]
    ys = [y for line in series for y in line.y] + ([] if reference is None else [reference])
    if not xs:
        return Markup('<p class="note">No points were logged.</p>')
    x_ticks = _linear_ticks(min(xs), max(xs))
    y_ticks = _log_ticks(min(ys), max(ys)) if log_y else _linear_ticks(min(ys), max(ys))
    x_low, x_high = min(xs), max(*xs, min(xs) + 1e-9)
    low, high = min([*ys, y_ticks[0]]), max([*ys, y_ticks[-1]])

    def across(x: float) -> float:
        return round(_LEFT + (x - x_low) / (x_high - x_low) * (_WIDTH - _LEFT - _RIGHT), 1)

    def down(y: float) -> float:
        share = math.log(y / low) / math.log(high / low) if log_y else (y - low) / (high - low)
        return round(_HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM), 1)

    svg = pages.render(
        "chart.svg",
        __package__,
        width=_WIDTH,
        height=_HEIGHT,
        left=_LEFT,
        right=_WIDTH - _RIGHT,
        bottom=_HEIGHT - _BOTTOM,
        x_label=x_label,
        x_ticks=[(across(tick), _number(tick)) for tick in x_ticks if x_low <= tick <= x_high],
        y_ticks=[(down(tick), _number(tick)) for tick in y_ticks],
        reference=None if reference is None else down(reference),
        lines=[[(across(x), down(y)) for x, y in zip(line.x, line.y, strict=True)] for line in series],
    )
    return Markup(svg)


def _linear_ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Returns round numbers that enclose the range."""
    if high - low < 1e-12 * max(abs(low), abs(high), 1e-9):
        pad = max(abs(low), 1.0) * 0.05
        low, high = low - pad, high + pad
    raw = (high - low) / (wanted - 1)
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(m * magnitude for m in (1, 2, 2.5, 5, 10) if m * magnitude >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Returns powers of ten times 1, 2, and 5 that enclose the range, or only powers of ten if these are too many."""
    marks = [
        m * 10.0**e for e in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1) for m in (1, 2, 5)
    ]
    first = max(i for i, mark in enumerate(marks) if mark <= low * 1.0000001)
    last = min((i for i, mark in enumerate(marks) if mark >= high * 0.9999999), default=len(marks) - 1)
    inside = marks[first : max(last, first + 1) + 1]
    return inside if len(inside) <= 7 else [inside[0], *(m for m in inside[1:-1] if f"{m:e}"[0] == "1"), inside[-1]]


def _number(value: float) -> str:
    if value != 0 and abs(value) < 0.001:
        return f"{value:.0e}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.4g}"
