import numpy as np
import pytest

from recipes.studies.verdict import NOISE, REVERSED, SEEN, TOO_FEW, Estimate, close, greater


def test_an_estimate_is_mean_and_standard_error():
    values = [0.7, 0.72, 0.65]
    estimate = Estimate.of(values)
    np.testing.assert_allclose(estimate.mean, np.mean(values))
    np.testing.assert_allclose(estimate.error, np.std(values, ddof=1) / np.sqrt(3))
    assert estimate.text(100) == "69.0 ± 2.1"
    assert Estimate.of([0.5]).error is None and Estimate.of([0.5]).text(100, 0) == "50"
    with pytest.raises(ValueError, match="none"):
        Estimate.of([])


def test_differences_are_paired_by_seed():
    low = {0: 0.1, 1: 0.5, 2: 0.9}
    high = {seed: value + 0.02 + 0.001 * seed for seed, value in low.items()}
    assert greater("larger", high, low).outcome == SEEN
    assert greater("larger", low, high).outcome == REVERSED
    assert greater("larger", {0: 0.2, 1: 0.5, 2: 0.8}, low).outcome == NOISE
    # Seeds that only one side has are left out.
    assert greater("larger", {**high, 3: 0.0}, low).outcome == SEEN
    assert "+2.1 points" in greater("larger", high, low).evidence


def test_few_seeds_say_nothing():
    assert greater("larger", {0: 0.9}, {0: 0.1}).outcome == TOO_FEW
    assert greater("larger", {}, {0: 0.1}).outcome == TOO_FEW
    assert close("near", {0: 0.9}, {0: 0.9}, 0.1).outcome == TOO_FEW


def test_equal_values_are_no_ordering():
    assert greater("larger", {0: 0.5, 1: 0.5}, {0: 0.5, 1: 0.5}).outcome == NOISE


def test_closeness_allows_for_errors():
    reference = {0: 0.5, 1: 0.6, 2: 0.7}

    def shifted(*by):
        return {seed: reference[seed] + d for seed, d in enumerate(by)}

    assert close("near", shifted(0.01, 0.012, 0.011), reference, 0.05).outcome == SEEN
    assert close("near", shifted(-0.2, -0.21, -0.2), reference, 0.05).outcome == REVERSED
    assert close("near", shifted(0.0, 0.2, -0.1), reference, 0.05).outcome == NOISE
