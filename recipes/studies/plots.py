"""The studies' figures, one style: panels of lines with error bands, and one legend below them, by matplotlib."""

from __future__ import annotations

import dataclasses
import io
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from siglip_tf.storage import new_file

from .study import Results
from .verdict import Estimate

COLOURS = ("#2563c9", "#d9731a", "#1a8a4a", "#a23bb0", "#5d6875", "#c2382e")
_INK, _SOFT, _RULE = "#1c2530", "#5d6875", "#e3e7ec"
_PANEL = (3.5, 2.75)  # inches
_DPI = 120


@dataclasses.dataclass(frozen=True)
class Line:
    """A line: points whose `y` may be estimates with errors; None leaves a point out.

    Attributes:
        name: in the legend; one that begins with "_" is not shown there.
        x, y: of the points, equally many.
        colour: index into `COLOURS`.
        dashed: whether the line is.
        marks: whether each point is marked.
    """

    name: str
    x: Sequence[float]
    y: Sequence[Estimate | float | None]
    colour: int = 0
    dashed: bool = False
    marks: bool = True


@dataclasses.dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Attributes:
        title: above it.
        x_label, y_label: of the axes.
        lines: what is drawn.
        log_x, log_y: logarithmic axes; `log_x` marks the x of the points themselves.
        scale: factor on every y, 100 for shares in percent.
        x_names: names of the points x = 0, 1, 2, ... in place of numbers.
        y_range: limits after scaling.
    """

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    log_x: bool = False
    log_y: bool = False
    scale: float = 1.0
    x_names: Sequence[str] = ()
    y_range: tuple[float | None, float | None] | None = None


def final_line(
    results: Results,
    name: str,
    xs: Sequence[Any],
    label_of: Callable[[Any], str],
    colour: int = 0,
    figure: str = "zero_shot",
) -> Line:
    """A line of final figures: at each of `xs` the estimate of the row that `label_of(x)` names.

    Names, which are no places on an axis, stand one after the other.
    """
    places = list(range(len(xs))) if isinstance(xs[0], str) else xs
    return Line(name, places, [results.estimate(label_of(x), "final", figure) for x in xs], colour)


def draw(panels: Sequence[Panel], path: Path, columns: int = 3) -> None:
    """Writes a PNG of the panels, row by row; aside, then renamed."""
    from matplotlib.figure import Figure

    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(_PANEL[0] * columns, _PANEL[1] * rows), dpi=_DPI, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, panel in zip(grid, panels, strict=False):
        _draw_panel(axes, panel)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    _legend(figure, grid[: len(panels)])
    _save(figure, path)


def _save(figure, path: Path) -> None:
    from PIL import Image

    whole = io.BytesIO()
    figure.savefig(whole, format="png", facecolor="white")
    # A palette takes a third of the bytes, and these figures have few colours.
    picture = Image.open(whole).convert("RGB").quantize(96, dither=Image.Dither.NONE)
    with new_file(path) as aside:
        picture.save(aside, "PNG", optimize=True)


def draw_intervals(rows: Sequence[tuple[str, tuple[float, float, float]]], label: str, path: Path) -> None:
    """Writes a PNG of intervals, one a line, with the name on the left.

    Args:
        rows: name, and lower end, mean and upper end.
        label: of the axis.
        path: of the file.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.2 * _PANEL[0], 0.9 + 0.36 * len(rows)), dpi=_DPI, layout="constrained")
    axes = figure.subplots()
    for y, (_, (low, mean, high)) in enumerate(rows):
        colour = COLOURS[2] if low > 0 else COLOURS[5] if high < 0 else COLOURS[4]
        axes.plot([low, high], [y, y], color=colour, linewidth=2, solid_capstyle="butt")
        axes.plot([mean], [y], "o", color=colour, markersize=4.5)
    axes.axvline(0, color=_SOFT, linewidth=0.8)
    axes.set_yticks(range(len(rows)), [textwrap.fill(name, 62) for name, _ in rows])
    axes.invert_yaxis()
    axes.set_xlabel(label, fontsize=8.5, color=_SOFT)
    _plain(axes, grid="x", label_size=7.5)
    _save(figure, path)


def _plain(axes, grid: str, label_size: float) -> None:
    """Soft grid lines along one axis, and no frame but the bottom."""
    axes.tick_params(labelsize=label_size, colors=_SOFT, length=0)
    axes.grid(axis=grid, color=_RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    for name, spine in axes.spines.items():
        spine.set_visible(name == "bottom")
        spine.set_color(_RULE)


def _draw_panel(axes, panel: Panel) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    axes.set_title(panel.title, fontsize=9.5, color=_INK, loc="left", fontweight="bold")
    axes.set_xlabel(panel.x_label, fontsize=8.5, color=_SOFT)
    axes.set_ylabel(panel.y_label, fontsize=8.5, color=_SOFT)
    _plain(axes, grid="y", label_size=8)
    if panel.log_x:
        axes.set_xscale("log", base=2)
        marks = sorted({x for line in panel.lines for x in line.x})
        axes.set_xticks(marks, [_number(x) for x in marks])
        axes.minorticks_off()
    elif not panel.x_names:
        axes.xaxis.set_major_formatter(lambda x, _: f"{x / 1000:g}k" if abs(x) >= 1000 else f"{x:g}")
    if panel.log_y:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(lambda y, _: f"{y:g}")
    for line in panel.lines:
        kept = [(x, y) for x, y in zip(line.x, line.y, strict=True) if y is not None]
        values = [(y.mean if isinstance(y, Estimate) else y) * panel.scale for _, y in kept]
        errors = [(y.error or 0.0) * panel.scale if isinstance(y, Estimate) else 0.0 for _, y in kept]
        colour = COLOURS[line.colour % len(COLOURS)]
        style = {"color": colour, "linewidth": 1.5, "label": line.name, "linestyle": "--" if line.dashed else "-"}
        xs = [x for x, _ in kept]
        axes.plot(xs, values, marker="o" if line.marks else None, markersize=3.5, **style)
        if any(errors):
            low, high = ([v + sign * e for v, e in zip(values, errors, strict=True)] for sign in (-1, 1))
            axes.fill_between(xs, low, high, color=colour, alpha=0.18, linewidth=0)
    if panel.x_names:
        axes.set_xticks(range(len(panel.x_names)), panel.x_names)
    if panel.y_range:
        axes.set_ylim(*panel.y_range)


def _legend(figure, grid) -> None:
    """One legend for all panels, below them, where it covers nothing."""
    named: dict[str, Any] = {}
    for axes in grid:
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            named.setdefault(name, handle)
    if len(named) > 1:
        figure.legend(
            named.values(),
            named.keys(),
            loc="outside lower center",
            ncols=min(len(named), 2 * len(grid)),
            fontsize=8,
            frameon=False,
            labelcolor=_SOFT,
        )


def _number(value: float) -> str:
    for size, letter in ((2**20, "M"), (2**10, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:g}"
