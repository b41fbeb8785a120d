"""Finds the largest global batch that fits into a slice's memory. Memory is linear in the batch, so few compiles do."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from siglip_tf.tpu.report import Report


def largest_batch(compile_at: Callable[[int], Report], chips: int, start: int, step: int = 64) -> list[Report]:
    """Finds the largest batch that fits, with a resolution of `step` examples per chip.

    Args:
        compile_at: a function of a global batch that returns a report.
        chips: number of chips of the slice.
        start: the first global batch to try.
        step: the resolution in examples per chip.

    Returns:
        All reports of the search in order of the batch. The last one that fits has the largest batch.

    Raises:
        ValueError: if `start` is not a multiple of chips * step, or not even chips * step examples fit.
    """
    unit = chips * step
    if start % unit or start < unit:
        raise ValueError(f"Expected a start that is a multiple of {unit}. Received: {start}.")
    reports: dict[int, Report] = {}
    low, high, batch = 0, None, start
    while high is None or high - low > unit:
        report = reports[batch] = compile_at(batch)
        low, high = (batch, high) if report.fits else (low, batch)
        if high == unit:
            raise ValueError(f"Not even {unit} examples fit {report.topology.name}.")
        guess = _where_memory_ends(reports.values(), unit) or (2 * low if high is None else (low + high) // 2)
        batch = max(guess // unit, 1) * unit
        if high is not None:
            batch = min(batch, high - unit)
        batch = max(batch, low + unit)
    return [reports[b] for b in sorted(reports)]


def _where_memory_ends(reports: Iterable[Report], unit: int) -> int | None:
    """Returns the batch at which the line through the two largest known points reaches the chip's memory."""
    known = sorted((r.global_batch, r.used) for r in reports)[-2:]
    if len(known) < 2:
        return None
    (b1, used1), (b2, used2) = known
    slope = (used2 - used1) / (b2 - b1)
    usable = next(iter(reports)).topology.chip.usable
    return int(b2 + (usable - used2) / slope) if slope > 0 else 2 * b2
