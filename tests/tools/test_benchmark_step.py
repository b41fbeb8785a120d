"""The step benchmark at a tiny size: every candidate trains, and the table says how they compare."""

import pytest

from tools.benchmark import step

TINY = step.Shape(size="mu", patch=8, image_size=16, batch=4, text_length=5, vocab_size=40)


def test_ours_and_the_bound_run_and_the_table_compares_them():
    times = step.measure([step.BOUND, step.OURS], TINY, rounds=1)
    assert {name: len(seconds) for name, seconds in times.items()} == {step.BOUND: 1, step.OURS: 1}
    table = step.table({step.BOUND: [1.0, 1.0], step.OURS: [2.0, 4.0], "slow": [4.0, 4.0]}, batch=6)
    assert [line.split()[-4:] for line in table.splitlines()[1:]] == [
        ["1.000", "6.00", "100.0%", "0.38x"],
        ["3.000", "2.00", "37.5%", "1.00x"],
        ["4.000", "1.50", "25.0%", "1.50x"],
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in step.CANDIDATES if n != step.BOUND])
def test_every_candidate_learns(name):
    pytest.importorskip("keras_hub" if name == "KerasHub" else "numpy")
    pytest.importorskip("transformers" if "torch" in name else "numpy")
    run = step.CANDIDATES[name](TINY)
    losses = [run() for _ in range(12)]
    assert 1 < losses[0] < 30  # 10 where all cosines are 0; rivals begin elsewhere
    assert losses[-1] < losses[0]
