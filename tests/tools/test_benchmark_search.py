"""The search benchmark: what it draws, and that a kept graph is not made again."""

import numpy as np

from tools.benchmark import search


def test_graph_finds_what_the_product_finds(tmp_path, capsys):
    path = tmp_path / "graph"
    search.main(["--pictures", "600", "--dim", "32", "--queries", "5", "--graph", str(path)])
    out = capsys.readouterr().out
    assert "600 of 600 vectors" in out and "graph finds 100.0 %" in out
    again = search.measure(600, 32, 5, 10, path)
    assert again["graph made of"] == 0 and again["recall"] == 1.0


def test_drawn_vectors_have_near_neighbours():
    vectors = search.drawn(500, 64, seed=1)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    cosines = np.sort(vectors @ vectors.T, axis=1)[:, :-1]
    assert cosines[:, -1].mean() > 0.5 > abs(cosines).mean()
