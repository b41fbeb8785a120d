"""Reports of `siglip_tf.tpu` as one self-contained page with a plot of memory over batch."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path

from siglip_tf.storage import write_file
from siglip_tf.tpu import Report
from siglip_tf.tpu.topology import GIB

from .tpu_table import details

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 720, 340, 56, 20, 16, 46
_COLOURS = ("#2563eb", "#d97706", "#059669", "#9333ea")
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1f2937; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; } th, td { padding: .3rem .7rem; text-align: right; }
th { border-bottom: 1px solid #9ca3af; font-weight: 600; } td:last-child, th:last-child { text-align: left; }
pre { background: #f3f4f6; padding: 1rem; white-space: pre-wrap; font-size: 12px; line-height: 1.45; }
svg text { font: 12px system-ui, sans-serif; fill: #374151; } .bar { height: 1.1rem; display: inline-block; }
"""


def write_page(path: Path, title: str, groups: Mapping[str, Sequence[Report]]) -> None:
    """Writes the page aside, then renames it.

    Args:
        path: of the page.
        title: its heading.
        groups: name of a line -> its reports by batch.
    """
    parts = [f"<!doctype html><meta charset=utf-8><title>{html.escape(title)}</title><style>{_STYLE}</style>"]
    parts.append(f"<h1>{html.escape(title)}</h1>{_plot(groups)}")
    for name, reports in groups.items():
        parts.append(f"<h2>{html.escape(f'{name}, compiled by {reports[0].compiler}')}</h2>{_table(reports)}")
        fitting = [report for report in reports if report.fits]
        if fitting:
            parts.append(_bars(fitting[-1]))
            parts.append(f"<pre>{html.escape(chr(10).join(details(fitting[-1], 25)))}</pre>")
    write_file(path, "\n".join(parts))


def _table(reports):
    head = ("batch", "peak GiB", "s / step", "images / s / chip", "share of peak", "days", "")
    rows = ["<tr>" + "".join(f"<th>{cell}</th>" for cell in head) + "</tr>"]
    for r in reports:
        cells = [r.global_batch, f"{r.used / GIB:.2f}"]
        if r.fits:
            days = "" if r.days is None else f"{r.days:.2f}"
            cells += [f"{r.seconds:.3f}", f"{r.images_per_second_per_chip:.0f}", f"{r.peak_share:.0%}", days, "fits"]
        else:
            cells += ["", "", "", "", f"does not fit by {r.short_by / GIB:.2f} GiB"]
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return f"<table>{''.join(rows)}</table>"


def _bars(report):
    cost = report.cost
    bars = "".join(
        f'<span class=bar title="{kind} {seconds / cost.seconds:.1%}" '
        f'style="width:{100 * seconds / cost.seconds:.2f}%;background:hsl({47 * n} 60% 60%)"></span>'
        for n, (kind, seconds) in enumerate(cost.by_kind.items())
        if seconds
    )
    names = ", ".join(
        f'<span style="color:hsl({47 * n} 60% 38%)">{kind} {seconds / cost.seconds:.0%}</span>'
        for n, (kind, seconds) in enumerate(cost.by_kind.items())
        if seconds
    )
    return f"<p>Time at batch {report.global_batch}: {names}</p><div>{bars}</div>"


def _plot(groups):
    every = [report for reports in groups.values() for report in reports]
    usable = every[0].topology.chip.usable / GIB
    most = max([usable, *(r.used / GIB for r in every)]) * 1.08
    widest = max(r.global_batch for r in every) * 1.05

    def across(batch):
        return _LEFT + batch / widest * (_WIDTH - _LEFT - _RIGHT)

    def down(gib):
        return _HEIGHT - _BOTTOM - gib / most * (_HEIGHT - _TOP - _BOTTOM)

    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="memory over batch">']
    for gib in _ticks(most):
        parts.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{down(gib):.1f}" y2="{down(gib):.1f}" stroke="#e5e7eb"/>'
        )
        parts.append(f'<text x="{_LEFT - 8}" y="{down(gib) + 4:.1f}" text-anchor="end">{gib:g}</text>')
    for batch in _ticks(widest):
        parts.append(
            f'<text x="{across(batch):.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{batch:g}</text>'
        )
    parts.append(
        f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{down(usable):.1f}" y2="{down(usable):.1f}" stroke="#dc2626" '
        f'stroke-dasharray="6 4"/><text x="{_LEFT + 6}" y="{down(usable) - 6:.1f}">'
        f"{usable:g} GiB of a chip</text>"
    )
    for n, (name, reports) in enumerate(groups.items()):
        colour = _COLOURS[n % len(_COLOURS)]
        points = [(across(r.global_batch), down(r.used / GIB), r.fits) for r in reports]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for x, y, fits in points:
            fill = colour if fits else "white"
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{fill}" stroke="{colour}" stroke-width="2"/>')
        parts.append(
            f'<text x="{_WIDTH - _RIGHT - 8}" y="{_HEIGHT - _BOTTOM - 12 - 16 * n}" text-anchor="end" '
            f'style="fill:{colour}">{html.escape(name)}</text>'
        )
    parts.append(
        f'<text x="{_WIDTH / 2}" y="{_HEIGHT - 8}" text-anchor="middle">global batch (hollow: does not fit)</text>'
    )
    parts.append(f'<text x="14" y="{_TOP + 2}" text-anchor="start">GiB</text></svg>')
    return "".join(parts)


def _ticks(most):
    for step in (s * 10**e for e in range(8) for s in (1, 2, 5)):
        if most / step <= 8:
            return [step * n for n in range(int(most / step) + 1)]
    return [0, most]
