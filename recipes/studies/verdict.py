"""What the seeds allow to be said about a claim: an interval of the paired difference, and one of three verdicts.

Runs of one seed are paired: they share initial weights and the order of the data. Each claim is looked at twice at
most, after `FIRST_LOOK` seeds and, where the first look leaves a difference open that would matter, after
`SECOND_LOOK`. Both looks use an interval of 97.5 %, so that a claim's verdict is wrong in at most 5 % of cases however
many looks it took (Bonferroni).
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from typing import Any

FIRST_LOOK, SECOND_LOOK = 5, 10  # seeds
ERROR = 0.05  # of a claim
_LOOKS = 2
SEEN, NOT_SEEN, SMALLER, TOO_FEW = "seen", "not seen", "smaller", "not computed"
MATTERS = 0.02  # an accuracy difference of two points; claims about other quantities bring their own
RULE = (
    f"Differences are paired by seed. Every claim is looked at after {FIRST_LOOK} seeds. Where its interval then holds "
    f"0 and reaches beyond the difference that would matter, its runs get {SECOND_LOOK} seeds and it is looked at once "
    f"more. Both looks use an interval of {1 - ERROR / _LOOKS:.1%} (Student's t), so that a verdict errs in at most "
    f"{ERROR:.0%} of cases. **Seen**: the interval lies on the paper's side of 0. **Not seen**: it lies on the other "
    "side. **Smaller than X**: it holds 0, and the difference is below X in either direction. A claim of the last kind "
    "counts as undecided where X is more than what would matter."
)


@dataclasses.dataclass(frozen=True)
class Estimate:
    """The mean and its standard error, which is None for a single value."""

    mean: float
    error: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Estimate:
        """Of at least one value.

        Raises:
            ValueError: no values.
        """
        if not values:
            raise ValueError("Expected at least one value to estimate from. Received: none.")
        error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
        return cls(statistics.fmean(values), error)

    def text(self, scale: float = 1.0, digits: int = 1) -> str:
        """ "71.2 ± 0.8" """
        if not math.isfinite(self.mean):
            return "diverged"
        error = "" if self.error is None else f" ± {self.error * scale:.{digits}f}"
        return f"{self.mean * scale:.{digits}f}{error}"


def text_of(values: Collection[float], scale: float = 1.0, digits: int = 1) -> str:
    """ "71.2 ± 0.8", or a dash where there are no values."""
    return Estimate.of(list(values)).text(scale, digits) if values else "-"


def interval(differences: Sequence[float], error: float = ERROR / _LOOKS) -> tuple[float, float]:
    """The two-sided interval of the mean of paired differences, by Student's t.

    Args:
        differences: at least two.
        error: chance that the interval misses the mean.

    Returns:
        Lower and upper end. Where all differences are equal, both are that difference.
    """
    from scipy import stats

    estimate = Estimate.of(differences)
    half = stats.t.ppf(1 - error / 2, len(differences) - 1) * estimate.error
    return estimate.mean - half, estimate.mean + half


@dataclasses.dataclass(frozen=True)
class Verdict:
    """A claim of the paper, and what the results say about it.

    Attributes:
        claim: a sentence.
        outcome: `SEEN`, `NOT_SEEN`, `SMALLER` or `TOO_FEW`.
        difference: lower end, mean and upper end of the difference in `unit`; None where the claim is no difference.
        seeds: how many pairs; 0 where seeds mean nothing.
        unit: of the difference.
        digits: after the point.
        undecided: whether the difference may be one that matters, in either direction.
        rows: labels of the rows that more seeds would help.
        evidence: in place of the difference.
        headline: whether it belongs into the table of the first page.
    """

    claim: str
    outcome: str
    difference: tuple[float, float, float] | None = None
    seeds: int = 0
    unit: str = ""
    digits: int = 1
    undecided: bool = False
    rows: tuple[str, ...] = ()
    evidence: str = ""
    headline: bool = False

    @property
    def said(self) -> str:
        """The verdict in words: "seen", "smaller than 1.3 points"."""
        if self.outcome != SMALLER:
            return self.outcome
        low, _, high = self.difference
        bound = f"{_up(max(-low, high), self.digits):.{self.digits}f}"
        return f"smaller than {bound} {self.unit}".rstrip() + (" (undecided)" if self.undecided else "")

    @property
    def effect(self) -> str:
        """ "+1.3 points", or what stands in place of it."""
        if self.difference is None:
            return self.evidence
        return f"{self.difference[1]:+.{self.digits}f} {self.unit}".rstrip()

    @property
    def interval(self) -> str:
        """ "+0.4 to +2.2", or a dash."""
        if self.difference is None:
            return "-"
        low, _, high = self.difference
        return f"{low:+.{self.digits}f} to {high:+.{self.digits}f}"

    def sentence(self) -> str:
        """Returns the verdict in the Markdown of the report."""
        found = self.evidence
        if self.difference is not None:
            found = f"difference {self.effect}, interval {self.interval}, {self.seeds} seeds"
        return f"{self.claim}: **{self.said}** ({found})." if found else f"{self.claim}: **{self.said}**."


def greater(
    claim: str,
    larger: Mapping[int, float],
    smaller: Mapping[int, float],
    *,
    rows: Collection[str] = (),
    matters: float = MATTERS,
    unit: str = "points",
    scale: float = 100.0,
    digits: int = 1,
    headline: bool = False,
) -> Verdict:
    """Whether `larger` exceeds `smaller`.

    Args:
        claim: a sentence without a full stop.
        larger: value by seed of what the paper has on top.
        smaller: value by seed of what it has below.
        rows: labels of the rows that the values are from.
        matters: a difference below this, as the values are, would change nobody's decision.
        unit: of the difference times `scale`.
        scale: see `unit`.
        digits: after the point.
        headline: see `Verdict`.
    """
    seeds = looked_at(larger, smaller)
    common: dict[str, Any] = {"rows": tuple(rows), "headline": headline, "unit": unit, "digits": digits}
    differences = [larger[seed] - smaller[seed] for seed in seeds]
    if len(seeds) < FIRST_LOOK:
        return Verdict(claim, TOO_FEW, evidence=_so_far(differences, scale, digits, unit), **common)
    low, high = interval(differences)
    common |= {"difference": _scaled(low, differences, high, scale), "seeds": len(seeds)}
    if low > 0 or high < 0:
        return Verdict(claim, SEEN if low > 0 else NOT_SEEN, **common)
    return Verdict(claim, SMALLER, undecided=max(-low, high) > matters, **common)


def close(
    claim: str,
    value: Mapping[int, float],
    reference: Mapping[int, float],
    within: float,
    *,
    rows: Collection[str] = (),
    digits: int = 1,
    headline: bool = False,
) -> Verdict:
    """Whether `value` stays within a margin of `reference`: two one-sided tests, by an interval inside the margin.

    Args:
        claim: a sentence.
        value: by seed.
        reference: by seed.
        within: the margin, as the values are; shown times 100.
        rows: see `greater`.
        digits: after the point.
        headline: see `Verdict`.

    Returns:
        `SEEN` where the interval lies inside the margin, `NOT_SEEN` where it lies outside, else undecided.
    """
    seeds = looked_at(value, reference)
    common: dict[str, Any] = {"rows": tuple(rows), "headline": headline, "unit": "points", "digits": digits}
    differences = [value[seed] - reference[seed] for seed in seeds]
    if len(seeds) < FIRST_LOOK:
        return Verdict(claim, TOO_FEW, evidence=_so_far(differences, 100.0, digits, "points"), **common)
    low, high = interval(differences)
    common |= {"difference": _scaled(low, differences, high, 100.0), "seeds": len(seeds)}
    if -within < low and high < within:
        return Verdict(claim, SEEN, **common)
    if low > within or high < -within:
        return Verdict(claim, NOT_SEEN, **common)
    return Verdict(claim, SMALLER, undecided=True, **common)


def _scaled(low, differences, high, scale) -> tuple[float, float, float]:
    return low * scale, statistics.fmean(differences) * scale, high * scale


def looked_at(first: Mapping[int, float], second: Mapping[int, float]) -> list[int]:
    """The seeds of a look: as many as the last complete look takes, or all that there are before the first."""
    seeds = sorted(set(first) & set(second))
    for look in (SECOND_LOOK, FIRST_LOOK):
        if len(seeds) >= look:
            return seeds[:look]
    return seeds


def _so_far(differences, scale, digits, unit) -> str:
    if not differences:
        return f"no seed of {FIRST_LOOK} so far"
    mean = f"{statistics.fmean(differences) * scale:+.{digits}f} {unit}".rstrip()
    return f"{len(differences)} of {FIRST_LOOK} seeds so far, mean difference {mean}"


def _up(value: float, digits: int) -> float:
    """Rounds up, so that an upper bound stays an upper bound."""
    return math.ceil(value * 10**digits - 1e-9) / 10**digits


def need_more(verdicts: Collection[Verdict]) -> set[str]:
    """Rows that the stopping rule asks more seeds of: those of claims that the first look leaves undecided."""
    return {row for verdict in verdicts if verdict.undecided and verdict.seeds < SECOND_LOOK for row in verdict.rows}


def advise(verdict: Verdict, *, seen: str, not_seen: str, smaller: str) -> str:
    """The sentence for users that a verdict supports; "" before there is one, and where it is undecided."""
    if verdict.outcome == TOO_FEW or verdict.undecided:
        return ""
    return {SEEN: seen, NOT_SEEN: not_seen, SMALLER: smaller}[verdict.outcome]
