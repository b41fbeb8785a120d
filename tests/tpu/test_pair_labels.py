"""Groups and equal captions in the TPU's program, run by CPU replicas: loss and gradients are dense float64's."""

import numpy as np
import pytest

from siglip_tf import tpu
from tests.losses import dense
from tests.losses.test_pair_labels import autodiff, masks
from tests.tpu import programs
from tests.tpu.programs import B, T

pytestmark = programs.needs_compiler
SLOW = pytest.mark.slow
CASES = [
    (2, "sigmoid", ("positive", "ignore")),
    *(
        pytest.param(replicas, loss, rules, marks=SLOW)
        for replicas in (2, 3, 5)
        for loss in ("sigmoid", "softmax")
        for rules in (("positive", "ignore"), ("ignore", "positive"), ("negative", "ignore"), ("ignore", "negative"))
    ),
]


@pytest.mark.parametrize(("replicas", "loss", "rules"), CASES)
@pytest.mark.slow
def test_loss_and_gradients_equal_dense_float64(rng, replicas, loss, rules):
    n = 30
    x, y = dense.pairs(rng, n, alike=0.4)
    # Groups differ in the upper half of their bits only, and cross replicas.
    group, ids = rng.integers(0, 9, n) << 33, rng.integers(0, 3, (n, 2)).astype(np.int32)
    program = programs.loss_program(replicas, n // replicas, x.shape[1], loss, tile_size=4, rules=rules)
    results = tpu.CPUReplicas(program, tpu.lower(program)).run({}, {"x": x, "y": y, "group": group, "ids": ids})
    value, dx, dy, *shares = results
    found = [np.sum(value), np.concatenate(dx), np.concatenate(dy), *(np.sum(share) for share in shares)]
    positive, ignored = masks(group, rules[0], [tuple(row) for row in ids], rules[1])
    for got, right in zip(found, autodiff(loss, x, y, positive, ignored, T, B), strict=True):
        assert dense.relative_error(got, right) < 1e-6
