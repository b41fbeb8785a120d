"""Intervals and verdicts, with scipy's own tests and numpy as oracles."""

import numpy as np
import pytest
from scipy import stats

from recipes.studies.verdict import (
    ERROR,
    FIRST_LOOK,
    NOT_SEEN,
    SECOND_LOOK,
    SEEN,
    SMALLER,
    TOO_FEW,
    Estimate,
    close,
    greater,
    interval,
    need_more,
)


def by_seed(values):
    return dict(enumerate(values))


def test_an_estimate_is_mean_and_standard_error():
    values = [0.7, 0.72, 0.65]
    estimate = Estimate.of(values)
    np.testing.assert_allclose(estimate.mean, np.mean(values))
    np.testing.assert_allclose(estimate.error, stats.sem(values))
    assert estimate.text(100) == "69.0 ± 2.1"
    assert Estimate.of([0.5]).error is None and Estimate.of([0.5]).text(100, 0) == "50"
    with pytest.raises(ValueError, match="none"):
        Estimate.of([])


def test_the_interval_is_scipys_paired_t_interval():
    generator = np.random.default_rng(0)
    for seeds in (FIRST_LOOK, SECOND_LOOK):
        first, second = generator.normal(0.6, 0.05, (2, seeds))
        oracle = stats.ttest_rel(first, second).confidence_interval(1 - ERROR / 2)
        np.testing.assert_allclose(interval(list(first - second)), (oracle.low, oracle.high), rtol=1e-10)
    assert interval([0.25] * 5) == (0.25, 0.25)


def test_verdicts_are_those_of_scipys_tests():
    """Seen or not seen as the two-sided paired test, equivalent as two one-sided tests, on many random claims."""
    generator = np.random.default_rng(1)
    margin, counts = 0.03, dict.fromkeys((SEEN, NOT_SEEN, SMALLER), 0)
    for _ in range(60):
        seeds = int(generator.choice([FIRST_LOOK, SECOND_LOOK]))
        spread = generator.choice([0.005, 0.03])
        first = generator.normal(0.6, 0.05, seeds)
        second = first - generator.normal(generator.choice([-0.04, 0.0, 0.04]), spread, seeds)
        test = stats.ttest_rel(first, second)
        found = greater("a", by_seed(first), by_seed(second), matters=margin)
        expected = SMALLER if test.pvalue > ERROR / 2 else SEEN if test.statistic > 0 else NOT_SEEN
        assert found.outcome == expected and found.seeds == seeds
        counts[expected] += 1
        differences = first - second
        one_sided = max(
            stats.ttest_1samp(differences, -margin, alternative="greater").pvalue,
            stats.ttest_1samp(differences, margin, alternative="less").pvalue,
        )
        inside = one_sided < ERROR / 4  # the two ends of an interval of 1 - ERROR / 2
        assert (close("a", by_seed(first), by_seed(second), margin).outcome == SEEN) == inside
        if expected == SMALLER:
            assert found.undecided == (not inside)
    assert min(counts.values()) > 5


def test_a_verdict_errs_in_at_most_its_share_of_cases():
    """Two looks at claims without any difference: scipy's interval, our stopping rule."""
    generator = np.random.default_rng(2)
    differences = generator.normal(0, 1, (2_000, SECOND_LOOK))
    wrong = 0
    for row in differences:
        looks = [interval(list(row[:seeds])) for seeds in (FIRST_LOOK, SECOND_LOOK)]
        wrong += any(low > 0 or high < 0 for low, high in looks)
    assert wrong / len(differences) < ERROR


def test_the_stopping_rule():
    same = by_seed(np.full(FIRST_LOOK, 0.5))
    wide = greater("a", by_seed(0.5 + np.array([0.1, -0.1, 0.05, -0.06, 0.0])), same, rows=("x", "y"))
    narrow = greater("a", by_seed(0.5 + np.array([1, -1, 2, -2, 0]) / 1e3), same, rows=("z",))
    clear = greater("a", by_seed(0.6 + np.arange(5) / 1e3), same, rows=("w",))
    assert [v.outcome for v in (wide, narrow, clear)] == [SMALLER, SMALLER, SEEN]
    assert wide.undecided and not narrow.undecided
    assert need_more([wide, narrow, clear]) == {"x", "y"}
    # Between two looks nothing changes, and after the second nothing more is asked for.
    values = 0.5 + np.array([0.1, -0.1, 0.05, -0.06, 0.0, 0.3, 0.3, 0.1, -0.2, 0.2])
    between = greater("a", by_seed(values[:8]), by_seed(np.full(8, 0.5)), rows=("x", "y"))
    assert between.seeds == FIRST_LOOK and between.difference == wide.difference
    last = greater("a", by_seed(values), by_seed(np.full(SECOND_LOOK, 0.5)), rows=("x", "y"))
    assert last.seeds == SECOND_LOOK and last.undecided and need_more([last]) == set()


def test_few_seeds_say_nothing():
    for count in range(FIRST_LOOK):
        values = by_seed(np.full(count, 0.5))
        for found in (greater("a", values, values), close("a", values, values, 0.1)):
            assert found.outcome == TOO_FEW and f"{count or 'no seed'} of 5" in found.sentence().replace(" seeds", "")
    # Seeds that only one side has are left out.
    assert greater("a", by_seed([0.5] * 5), {**by_seed([0.5] * 4), 9: 0.5}).outcome == TOO_FEW


def test_how_a_verdict_is_worded():
    low = by_seed([0.5, 0.6, 0.7, 0.5, 0.6])

    def worded(*differences, **more):
        return greater("A is better", by_seed([low[i] + d for i, d in enumerate(differences)]), low, **more)

    seen = worded(0.02, 0.021, 0.019, 0.02, 0.02)
    assert seen.sentence() == ("A is better: **seen** (difference +2.0 points, interval +1.9 to +2.1, 5 seeds).")
    assert worded(-0.02, -0.021, -0.019, -0.02, -0.02).said == "not seen"
    small = worded(0.001, -0.001, 0.002, -0.001, 0.0)
    assert small.said == "smaller than 0.3 points" and small.interval == "-0.2 to +0.2"
    wide = [0.1, -0.1, 0.2, -0.1, 0.0]
    high = stats.ttest_1samp(wide, 0).confidence_interval(1 - ERROR / 2).high * 100
    said = worded(*wide).said
    assert (
        said
        == f"smaller than {np.ceil(high * 10) / 10:.1f} points (undecided)"
        == "smaller than 22.4 points (undecided)"
    )
    other = worded(1.0, 1.1, 0.9, 1.0, 1.0, scale=1, unit="nats", digits=2)
    assert other.effect == "+1.00 nats" and other.said == "seen"
