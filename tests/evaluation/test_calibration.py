"""Calibration against scikit-learn: the same thresholds, scale and bias, and calibration error."""

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import precision_recall_curve

from siglip_tf.checkpoints import CheckpointError
from siglip_tf.checkpoints.checkpoint import check_calibration
from siglip_tf.evaluation.calibration import (
    calibration_of,
    fit_scale_and_bias,
    fit_threshold,
    pairs_of,
    reliability,
)


def sample(seed: int, pairs: int = 400, share: float = 0.1):
    """Logits as SigLIP has them: far below zero, matches a little above the others; some are equal."""
    rng = np.random.default_rng(seed)
    matches = rng.random(pairs) < share
    matches[:2] = True, False
    return np.round(rng.normal(-9, 2, pairs) + 3 * matches, 1), matches


def test_scale_and_bias_are_those_of_logistic_regression():
    for seed in range(5):
        logits, matches = sample(seed)
        theirs = LogisticRegression(C=np.inf, tol=1e-12, max_iter=10_000).fit(logits[:, None], matches)
        scale, bias = fit_scale_and_bias(logits, matches)
        np.testing.assert_allclose([scale, bias], [theirs.coef_[0, 0], theirs.intercept_[0]], rtol=1e-4)
        probabilities = 1 / (1 + np.exp(-(scale * logits + bias)))
        np.testing.assert_allclose(probabilities.mean(), matches.mean(), rtol=1e-9)  # at the maximum both are equal


def test_thresholds_are_the_best_of_the_precision_recall_curve():
    for seed in range(5):
        logits, matches = sample(seed)
        probabilities = 1 / (1 + np.exp(-logits))
        precisions, recalls, thresholds = precision_recall_curve(matches, probabilities)
        for asked in (0.05, 0.2, 0.5, 0.9, 1.0):
            reached = [i for i in range(len(thresholds)) if precisions[i] >= asked]
            if reached:
                found = fit_threshold(probabilities, matches, precision=asked)
                assert found.recall == pytest.approx(max(recalls[i] for i in reached))
                assert (probabilities >= found.value)[matches].mean() == pytest.approx(found.recall)
                assert matches[probabilities >= found.value].mean() == pytest.approx(found.precision)
                assert found.precision >= asked
            found = fit_threshold(probabilities, matches, recall=asked)
            wanted = max(precisions[i] for i in range(len(thresholds)) if recalls[i] >= asked)
            assert found.precision == pytest.approx(wanted)
            assert found.recall >= asked
            assert found.value in thresholds


def test_curve_and_error():
    logits, matches = sample(0, 600)
    probabilities = 1 / (1 + np.exp(-logits - 7)) + np.arange(600) * 1e-9  # no two are equal: the bins are sure
    curve = reliability(probabilities, matches, bins=6)
    shares, means = calibration_curve(matches, probabilities, n_bins=6, strategy="quantile")
    np.testing.assert_allclose(curve.probability, means, rtol=1e-9)
    np.testing.assert_allclose(curve.matches, shares, rtol=1e-9)
    assert curve.count.tolist() == [100] * 6
    assert curve.error == pytest.approx(np.abs(shares - means).mean())


def test_pairs_and_bad_samples():
    logits, matches = pairs_of(np.arange(6.0).reshape(2, 3), [[1, -1], [0, 2]])
    assert logits.tolist() == [0, 1, 2, 3, 4, 5]
    assert matches.tolist() == [False, True, False, True, False, True]
    some = np.array([True, False, True])
    for values, truth, says in (
        ([0.1, 0.2, np.nan], some, "finite"),
        ([0.1, 0.2], some, "Expected"),
        ([0.1, 0.2, 0.3], np.ones(3, bool), "3 of 3 match"),
        ([0.1, 0.2, 0.3], np.zeros(3, bool), "0 of 3 match"),
        ([0.1, 0.2, 0.3], [1, 0, 1], "Expected"),
    ):
        with pytest.raises(ValueError, match=says):
            fit_threshold(np.array(values), np.array(truth), precision=0.5)
    for options in ({}, {"precision": 0.5, "recall": 0.5}, {"precision": 0}, {"recall": 1.1}):
        with pytest.raises(ValueError, match=r"in \(0, 1\]"):
            fit_threshold(np.array([0.1, 0.2, 0.3]), some, **options)
    with pytest.raises(ValueError, match="No threshold reaches a precision of 0.9; the best of this sample is 0.5"):
        fit_threshold(np.array([0.1, 0.2]), np.array([True, False]), precision=0.9)
    with pytest.raises(ValueError, match="do not overlap"):
        fit_scale_and_bias(np.array([1.0, 2.0, 3.0]), np.array([False, True, True]))
    with pytest.raises(ValueError, match="smaller logits"):
        fit_scale_and_bias(*[-sample(0)[0], sample(0)[1]])
    threshold = fit_threshold(np.array([0.3, 0.2, 0.1]), np.array([True, False, True]), recall=1)
    kept = calibration_of(threshold, {"recall": 1}, 3, {"cat": threshold})
    assert kept["threshold"] == kept["labels"]["cat"] == 0.1
    for wrong in ({}, [], {"threshold": 2}, {"threshold": True}, {"threshold": 0.5, "labels": {"a": "b"}}, "x"):
        with pytest.raises(CheckpointError, match="threshold in 0..1"):
            check_calibration(wrong)
