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


def test_drawn_vectors_have_near_neighbors():
    vectors = search.drawn(500, 64, seed=1)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    cosines = np.sort(vectors @ vectors.T, axis=1)[:, :-1]
    assert cosines[:, -1].mean() > 0.5 > abs(cosines).mean()


def test_recall_of_smaller_vectors(capsys):
    search.main(["--compression", "--pictures", "400", "--dim", "48", "--queries", "8"])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
    recall = {" ".join(row[:-3]): (int(row[-3]), float(row[-2][:-1]), float(row[-1][:-1])) for row in rows}
    assert recall["float32"] == (192, 100.0, 100.0)
    assert recall["int8"][0] == 52
    assert recall["int8"][1] > 90
    assert recall["principal 24"][1] > recall["principal 16"][1] > recall["principal 8"][1]
    assert recall["principal 24"][1] > recall["first 24"][1]
    assert all(wider >= same for _, same, wider in recall.values())


def test_smaller_vectors_keep_the_order_that_a_full_product_gives():
    vectors, queries = search.falling(300, 32, seed=1), search.falling(5, 32, seed=2)
    everything = search.Compression.fitted(vectors, 31)
    same, wider = search.recalls(vectors, queries, everything, 10)
    assert same > 0.9
    assert wider == 1.0
