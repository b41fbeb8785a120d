"""Formats reports of `siglip_tf.tpu` as text."""

from __future__ import annotations

from collections.abc import Sequence

from siglip_tf.tpu import Report
from siglip_tf.tpu.report import LEFT_OUT
from siglip_tf.tpu.topology import GIB


def table(reports: Sequence[Report], title: str, ops: int = 12) -> str:
    """Returns one line per report, followed by details of the largest one that fits."""
    lines = [
        f"{title} (compiled by {reports[0].compiler})",
        _row("batch", "peak GiB", "of", "s/step", "img/s/chip", "of peak", "days", ""),
    ]
    for report in reports:
        lines.append(_line(report))
    fitting = [report for report in reports if report.fits]
    if fitting:
        lines += ["", *details(fitting[-1], ops)]
    return "\n".join([*lines, ""])


def details(report: Report, ops: int) -> list[str]:
    """Returns lines with the memory, the time by kind, the most expensive operations, and the hops of a report."""
    memory = ", ".join(f"{name} {size / GIB:.2f}" for name, size in report.memory.items())
    cost = report.cost
    kinds = ", ".join(f"{k} {s / cost.seconds:.0%}" for k, s in sorted(cost.by_kind.items(), key=lambda i: -i[1]) if s)
    lines = [
        f"Global batch {report.global_batch} on {report.topology.chips} chips, {report.parameters:,} weights",
        f"  memory of a chip in GiB: {memory}",
        f"  time: {kinds}; collectives at least {cost.collective_seconds * 1e3:.1f} ms if nothing ran beside them",
        f"  the estimate leaves out: {LEFT_OUT}",
    ]
    for hop in cost.hops:
        how = "asynchronous" if hop.asynchronous else "waits"
        lines.append(
            f"  hop {hop.shape} x {hop.count}: {how}, {hop.seconds * 1e6:.0f} us on the wire at least, under "
            f"{hop.seconds_under * 1e6:.0f} us of computation with {hop.matmuls_under} matmuls"
        )
    lines.append(f"  {'ms':>8} {'share':>6} {'times':>5}  {'kind':<10} operation and result")
    for op in cost.ops[:ops]:
        name = op.scope.removesuffix("/") or op.name
        shape = op.shape if len(op.shape) <= 70 else op.shape[:67] + "..."
        share = op.seconds / cost.seconds
        lines.append(f"  {op.seconds * 1e3:8.2f} {share:6.1%} {op.count:5d}  {op.kind:<10} {name[-60:]} {shape}")
    return lines


def _line(report):
    usable = f"{report.topology.chip.usable / GIB:.2f}"
    peak = f"{report.used / GIB:.2f}"
    if not report.fits:
        return _row(
            report.global_batch, peak, usable, "-", "-", "-", "-", f"does not fit by {report.short_by / GIB:.2f} GiB"
        )
    days = "-" if report.days is None else f"{report.days:.2f}"
    return _row(
        report.global_batch,
        peak,
        usable,
        f"{report.seconds:.3f}",
        f"{report.images_per_second_per_chip:.0f}",
        f"{report.peak_share:.0%}",
        days,
        "fits",
    )


def _row(*cells):
    return "  " + " ".join(f"{cell!s:>10}" for cell in cells[:-1]) + f"  {cells[-1]}"
