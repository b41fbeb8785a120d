"""The studies' figures: panels of lines with error bars, or of bars, by matplotlib."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path

from siglip_tf.storage import new_file

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
        legend: whether the lines' names are shown.
        legend_at: where; "best" looks for room.
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
    legend: bool = True
    legend_at: str = "best"


def draw(panels: Sequence[Panel], path: Path, columns: int = 3) -> None:
    """Writes a PNG of the panels, row by row; aside, then renamed."""
    from matplotlib.figure import Figure
    from PIL import Image

    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(_PANEL[0] * columns, _PANEL[1] * rows), dpi=_DPI, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, panel in zip(grid, panels, strict=False):
        _draw_panel(axes, panel)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    whole = io.BytesIO()
    figure.savefig(whole, format="png", facecolor="white")
    # A palette takes a third of the bytes, and these figures have few colours.
    picture = Image.open(whole).convert("RGB").quantize(96, dither=Image.Dither.NONE)
    with new_file(path) as aside:
        picture.save(aside, "PNG", optimize=True)


def _draw_panel(axes, panel: Panel) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    axes.set_title(panel.title, fontsize=9.5, color=_INK, loc="left", fontweight="bold")
    axes.set_xlabel(panel.x_label, fontsize=8.5, color=_SOFT)
    axes.set_ylabel(panel.y_label, fontsize=8.5, color=_SOFT)
    axes.tick_params(labelsize=8, colors=_SOFT, length=0)
    axes.grid(axis="y", color=_RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    for name, spine in axes.spines.items():
        spine.set_visible(name == "bottom")
        spine.set_color(_RULE)
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
        axes.errorbar(
            [x for x, _ in kept],
            values,
            yerr=errors if any(errors) else None,
            marker="o" if line.marks else None,
            markersize=3.5,
            capsize=2,
            elinewidth=1,
            **style,
        )
    if panel.x_names:
        axes.set_xticks(range(len(panel.x_names)), panel.x_names)
    if panel.y_range:
        axes.set_ylim(*panel.y_range)
    if panel.legend and len(panel.lines) > 1:
        axes.legend(fontsize=7.5, frameon=False, labelcolor=_SOFT, loc=panel.legend_at)


def _number(value: float) -> str:
    for size, letter in ((2**20, "M"), (2**10, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:g}"
