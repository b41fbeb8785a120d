"""What a few seeds allow to be said: means with standard errors, and whether an ordering is seen.

The rule, the same for every claim: runs of one seed are paired (they share initial weights and the order of the data);
the mean of the paired differences counts as seen where it exceeds two of its standard errors. With three seeds that is
a mild test, which one claim in eleven would pass by chance (t with two degrees of freedom): many claims that agree say
more than a single one.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Collection, Mapping, Sequence

ERRORS = 2.0  # standard errors of the difference that a claim must exceed
SEEN, REVERSED, NOISE, TOO_FEW = "seen", "not seen", "inside the noise", "too few seeds"
RULE = (
    "An ordering is **seen** where the mean difference of runs with the same seed exceeds two standard errors of that "
    "difference, **not seen** where it does so in the other direction, and **inside the noise** otherwise."
)


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Mean and standard error of the mean; None with one value."""

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


@dataclasses.dataclass(frozen=True)
class Verdict:
    """A claim of the paper, and what the cells say of it.

    Attributes:
        claim: a sentence.
        outcome: `SEEN`, `REVERSED`, `NOISE` or `TOO_FEW`.
        evidence: the figures behind it.
    """

    claim: str
    outcome: str
    evidence: str

    def sentence(self) -> str:
        """As the report has it, in Markdown."""
        return f"{self.claim}: **{self.outcome}** ({self.evidence})."


def greater(
    claim: str,
    larger: Mapping[int, float],
    smaller: Mapping[int, float],
    *,
    unit: str = "points",
    scale: float = 100.0,
    digits: int = 1,
) -> Verdict:
    """Whether `larger` exceeds `smaller`.

    Args:
        claim: a sentence without a full stop.
        larger: value by seed of what the paper has on top.
        smaller: value by seed of what it has below.
        unit: of the difference times `scale`.
        scale: see `unit`.
        digits: after the point.
    """
    seeds = sorted(set(larger) & set(smaller))
    if not seeds:
        return Verdict(claim, TOO_FEW, "nothing to compare yet")
    difference = Estimate.of([larger[seed] - smaller[seed] for seed in seeds])
    shown = f"difference {difference.mean * scale:+.{digits}f} {unit}".rstrip()
    if difference.error is None:
        return Verdict(claim, TOO_FEW, f"{shown} with one seed")
    evidence = f"{shown}, standard error {difference.error * scale:.{digits}f}, {len(seeds)} seeds"
    if abs(difference.mean) <= ERRORS * difference.error or difference.mean == 0:
        return Verdict(claim, NOISE, evidence)
    return Verdict(claim, SEEN if difference.mean > 0 else REVERSED, evidence)


def close(
    claim: str, value: Mapping[int, float], reference: Mapping[int, float], within: float, *, unit: str = "points"
) -> Verdict:
    """Whether `value` stays within a margin of `reference`, allowing for two standard errors.

    Args:
        claim: a sentence.
        value: by seed.
        reference: by seed.
        within: the margin, as the values are; shown times 100.
        unit: of the margin times 100.
    """
    seeds = sorted(set(value) & set(reference))
    if not seeds:
        return Verdict(claim, TOO_FEW, "nothing to compare yet")
    difference = Estimate.of([value[seed] - reference[seed] for seed in seeds])
    shown = f"difference {difference.mean * 100:+.1f} {unit}, margin {within * 100:.1f}"
    if difference.error is None:
        return Verdict(claim, TOO_FEW, f"{shown}, one seed")
    evidence = f"{shown}, standard error {difference.error * 100:.1f}, {len(seeds)} seeds"
    spare = ERRORS * difference.error
    if abs(difference.mean) + spare <= within:
        return Verdict(claim, SEEN, evidence)
    return Verdict(claim, REVERSED if abs(difference.mean) - spare > within else NOISE, evidence)
