"""Writes reports of `siglip_tf.tpu` as one self-contained page with a plot of memory by batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from siglip_tf import pages
from siglip_tf.storage import write_file
from siglip_tf.tpu import Report
from siglip_tf.tpu.topology import GIB

from .table import details

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 720, 330, 56, 20, 16, 36
_COLUMNS = ("batch", "peak GiB", "s / step", "images / s / chip", "share of peak", "days", "")


def write_page(path: Path, title: str, groups: Mapping[str, Sequence[Report]]) -> None:
    """Writes the page.

    Args:
        path: the path of the page.
        title: the heading of the page.
        groups: the reports of each line, in order of the batch, by the name of the line.
    """
    shown = [_group(name, reports) for name, reports in groups.items()]
    write_file(path, pages.render("tpu.html", title=title, plot=_plot(groups), groups=shown))


def _group(name: str, reports: Sequence[Report]) -> dict[str, Any]:
    fitting = [report for report in reports if report.fits]
    group: dict[str, Any] = {
        "title": f"{name}, compiled by {reports[0].compiler}",
        "columns": _COLUMNS,
        "rows": [_row(report) for report in reports],
        "kinds": [],
    }
    if fitting:
        last = fitting[-1]
        group |= {
            "batch": last.global_batch,
            "kinds": [(kind, seconds / last.cost.seconds) for kind, seconds in last.cost.by_kind.items() if seconds],
            "details": "\n".join(details(last, 25)),
        }
    return group


def _row(report: Report) -> list[Any]:
    cells: list[Any] = [report.global_batch, f"{report.used / GIB:.2f}"]
    if not report.fits:
        return [*cells, "", "", "", "", f"does not fit by {report.short_by / GIB:.2f} GiB"]
    days = "" if report.days is None else f"{report.days:.2f}"
    speed = f"{report.images_per_second_per_chip:.0f}"
    return [*cells, f"{report.seconds:.3f}", speed, f"{report.peak_share:.0%}", days, "fits"]


def _plot(groups: Mapping[str, Sequence[Report]]) -> dict[str, Any]:
    every = [report for reports in groups.values() for report in reports]
    usable = every[0].topology.chip.usable / GIB
    most = max([usable, *(report.used / GIB for report in every)]) * 1.08
    widest = max(report.global_batch for report in every) * 1.05

    def across(batch: float) -> float:
        return round(_LEFT + batch / widest * (_WIDTH - _LEFT - _RIGHT), 1)

    def down(gib: float) -> float:
        return round(_HEIGHT - _BOTTOM - gib / most * (_HEIGHT - _TOP - _BOTTOM), 1)

    return {
        "width": _WIDTH,
        "height": _HEIGHT,
        "left": _LEFT,
        "right": _WIDTH - _RIGHT,
        "bottom": _HEIGHT - _BOTTOM,
        "rows": [(down(gib), f"{gib:g}") for gib in _ticks(most)],
        "columns": [(across(batch), f"{batch:g}") for batch in _ticks(widest)],
        "limit": down(usable),
        "limit_name": f"{usable:g} GiB of a chip",
        "lines": [
            {"name": name, "points": [(across(r.global_batch), down(r.used / GIB), r.fits) for r in reports]}
            for name, reports in groups.items()
        ],
    }


def _ticks(most: float) -> list[float]:
    for step in (s * 10**e for e in range(8) for s in (1, 2, 5)):
        if most / step <= 8:
            return [step * n for n in range(int(most / step) + 1)]
    return [0, most]
