"""The loss benchmark at a tiny size: candidates are right, floors do what they say, memory is flat in D for ours."""

import os
import subprocess
import sys

import numpy as np
import pytest

from tools.benchmark import loss


def test_candidates_are_timed_in_turn_and_compared_with_float64(monkeypatch):
    names = [loss.FLOOR, loss.WHOLE, loss.OURS, "siglip_tf, bfloat16", "Algorithm 1, autodiff"]
    times, results = loss.measure_times(names, 40, 8, rounds=2)
    assert {name: len(seconds) for name, seconds in times.items()} == dict.fromkeys(names, 2)
    right = loss.expected(40, 8)
    assert loss.error(results[loss.OURS], right) < 1e-6
    assert loss.error(results["Algorithm 1, autodiff"], right) < 1e-4
    assert 1e-4 < loss.error(results["siglip_tf, bfloat16"], right) < 2e-2
    x, y = loss._inputs(40, 8)
    for name in (loss.FLOOR, loss.WHOLE):
        np.testing.assert_allclose(results[name][1], x @ y.T @ y, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(results[name][2], (x @ y.T).T @ x, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_rivals_on_torch_are_right_too():
    pytest.importorskip("torch")
    for name in loss.CANDIDATES:
        if "torch" in name and loss._why_not(name) is None:
            assert loss.error(loss.CANDIDATES[name](40, 8)(), loss.expected(40, 8)) < 1e-4, name


@pytest.mark.slow
def test_memory_of_a_replica_is_flat_in_the_number_of_replicas():
    pytest.importorskip("jax")
    command = [sys.executable, "-m", "tools.benchmark", "loss", "--replicas", "2", "4", "--n", "256", "--dim", "32"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ}).stdout
    rows = {
        line[2:30].strip(): [float(v.replace(",", "")) for v in line[30:].split()] for line in printed.splitlines()[3:]
    }
    two, four = rows[loss.OURS]
    assert four <= two * 1.1 + 0.1
    two, four = rows["ring, autodiff (jax)"]
    assert four > 1.5 * two
