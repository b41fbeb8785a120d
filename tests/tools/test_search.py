"""`python -m tools.search`: the index keeps itself in step with the folder, and the server keeps to its limits."""

import base64
import hashlib
import http.client
import io
import json
import re
import threading
import urllib.parse

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from siglip_tf.pages import share_text
from tests.example_model import example_model, pictures
from tools import search
from tools.search.index import INDEX_FOLDER, Index, Towers
from tools.search.neighbors import Neighbors
from tools.search.server import MAX_UPLOAD, SearchServer

PICTURES = pictures(9)


@pytest.fixture(scope="module")
def towers(model):
    return Towers(model, batch_size=4)


def fill(folder, count=9):
    (folder / "deep" / "er").mkdir(parents=True)
    for i, data in enumerate(PICTURES[:count]):
        (folder / ("deep/er" if i % 2 else "") / f"{i}.{'png' if i % 2 else 'jpg'}").write_bytes(data)
    (folder / "torn.jpg").write_bytes(PICTURES[0][:200])
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "x.png").write_bytes(PICTURES[1])
    (folder / "notes.txt").write_text("no picture")


def vectors(model):
    pixels = tf.stack([model.preprocessing.image(data) for data in PICTURES])
    return np.asarray(model.encode_image(pixels))


def test_index_follows_the_folder(model, towers, tmp_path, monkeypatch):
    monkeypatch.setattr("tools.search.index._CHUNK", 4)
    fill(tmp_path)
    report = Index(tmp_path).update(towers, "tiny")
    assert (report.embedded, report.kept, report.forgotten) == (10, 0, 0)
    assert list(report.broken) == ["torn.jpg"]
    index = Index(tmp_path).load()
    expected = vectors(model)
    assert len(index.files) == 9
    for file, vector in zip(index.files, index.vectors, strict=True):
        np.testing.assert_allclose(vector, expected[int(file.path.split("/")[-1][0])], rtol=0, atol=1e-5)

    report = Index(tmp_path).update(towers, "tiny")
    assert (report.embedded, report.kept, report.forgotten) == (0, 10, 0)
    (tmp_path / "0.jpg").unlink()
    (tmp_path / "torn.jpg").write_bytes(PICTURES[0])  # mended
    (tmp_path / "2.jpg").write_bytes(PICTURES[4] + b"x")  # another picture now
    (tmp_path / "new.webp.png").write_bytes(PICTURES[3])
    report = Index(tmp_path).update(towers, "tiny")
    assert (report.embedded, report.kept, report.forgotten, report.broken) == (3, 7, 3, {})
    index = Index(tmp_path).load()
    found = {file.path: vector for file, vector in zip(index.files, index.vectors, strict=True)}
    np.testing.assert_allclose(found["2.jpg"], expected[4], rtol=0, atol=1e-5)
    np.testing.assert_allclose(found["torn.jpg"], expected[0], rtol=0, atol=1e-5)
    assert "0.jpg" not in found
    assert len(found) == 10


def test_a_killed_run_goes_on(towers, tmp_path, monkeypatch):
    monkeypatch.setattr("tools.search.index._CHUNK", 3)
    fill(tmp_path)

    def stop(done, total):
        if done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Index(tmp_path).update(towers, "tiny", progress=stop)
    report = Index(tmp_path).update(towers, "tiny")
    assert (report.embedded, report.kept) == (4, 6)


def test_another_model_is_refused(towers, tmp_path):
    fill(tmp_path, 2)
    Index(tmp_path).update(towers, "tiny")
    other = example_model("bicubic_antialias")
    with pytest.raises(ValueError, match="was made by another model"):
        Index(tmp_path).update(Towers(other), "other")
    with pytest.raises(ValueError, match="has no index"):
        Index(tmp_path / "deep").manifest()


def test_search_is_an_exact_ranking(rng):
    index = Index("x")
    index.vectors = rng.normal(size=(500, 8)).astype(np.float32)
    index.files = [None] * 500
    query = rng.normal(size=8).astype(np.float32)
    found = index.search(query, 20)
    assert [i for i, _ in found] == np.argsort(-(index.vectors @ query))[:20].tolist()
    assert len(index.search(query, 1_000)) == 500
    assert Index("y").search(query, 3) == []


def test_graph_finds_what_the_exact_search_finds(towers, rng, tmp_path, monkeypatch):
    """Clustered vectors, as embeddings are; then files come and go and the graph follows."""
    monkeypatch.setattr("tools.search.index.WORTH_A_GRAPH", 5)
    fill(tmp_path)
    index = Index(tmp_path)
    index.update(towers, "tiny")
    text = towers.texts(["a red circle"])[0]
    exact = index.search(text, 5)
    assert index.use_graph()
    assert index.search(text, 5) == exact
    (tmp_path / "2.jpg").unlink()
    (tmp_path / "new.png").write_bytes(PICTURES[1] + b"x")
    assert not Index(tmp_path).use_graph()  # nothing loaded yet
    index = Index(tmp_path)
    index.update(towers, "tiny")
    exact = index.search(text, 50)
    assert index.use_graph()
    assert index.search(text, 50) == exact

    centres = rng.normal(size=(50, 64))
    vectors = centres[rng.integers(0, 50, 4_000)] + 0.5 * rng.normal(size=(4_000, 64))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    graph = Neighbors(tmp_path / "graph", 64)
    assert graph.follow(range(4_000), vectors) == 4_000
    hits = [len({*graph.search(v, 20)} & {*np.argsort(-(vectors @ v))[:10].tolist()}) for v in vectors[:200]]
    assert np.mean(hits) > 9.8
    assert Neighbors(tmp_path / "graph", 64).follow(range(10, 4_005), np.resize(vectors, (3_995, 64))) == 5


def test_commands(model, checkpoint, tmp_path, capsys):
    fill(tmp_path)
    assert search.main(["query", "a red circle", str(tmp_path)]) == 1
    assert "has no index" in capsys.readouterr().err
    assert search.main(["index", str(tmp_path), "--model", checkpoint]) == 0
    printed = capsys.readouterr().out
    assert "cannot be read: torn.jpg" in printed
    assert "9 pictures can be found" in printed
    assert search.main(["index", str(tmp_path)]) == 0  # remembers its model
    assert "10 known before" in capsys.readouterr().out

    assert search.main(["query", "a red circle", str(tmp_path), "-n", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    text = np.asarray(model.encode_text(model.preprocessing.text(["a red circle"])))[0]
    order = np.argsort(-(vectors(model) @ text))[:3]
    assert [line.split()[-1].split("/")[-1][0] for line in lines[1:]] == [str(i) for i in order]
    assert search.main(["query", str(tmp_path / "4.jpg"), str(tmp_path), "-n", "1"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split() == ["1.000", str(tmp_path / "4.jpg")]
    assert search.main(["query", "x" * 5_000, str(tmp_path), "-n", "1"]) == 0


@pytest.fixture(scope="module")
def server(towers, tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    fill(folder)
    index = Index(folder)
    index.update(towers, "tiny")
    with SearchServer(index, towers, port=0) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(server, method, path, body=None, **headers):
    connection = http.client.HTTPConnection(*server.server_address, timeout=60)
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    response = connection.getresponse()
    data = response.read()
    connection.close()
    return response.status, response.headers, data


def test_pages_and_pictures(server):
    status, headers, page = ask(server, "GET", "/?q=anything")
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'none'"
    for tag in ("style", "script"):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page.decode(), re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert policy[f"{tag}-src"] == f"'sha256-{digest}'"
    assert ask(server, "GET", "/icon.svg")[1]["Content-Type"] == "image/svg+xml"
    position = next(i for i, file in enumerate(server.index.files) if file.path == "4.jpg")
    status, headers, data = ask(server, "GET", f"/picture/{position}")
    assert (status, headers["Content-Type"], data) == (200, "image/jpeg", PICTURES[4])
    status, _, data = ask(server, "GET", f"/thumbnail/{position}")
    assert Image.open(io.BytesIO(data)).size == (48, 40)
    assert json.loads(ask(server, "GET", "/about")[2])["pictures"] == 9
    for count, expected in ((4, [0, 2, 5, 8]), (60, list(range(9))), (1, [0])):
        results = json.loads(ask(server, "GET", f"/browse?n={count}")[2])["results"]
        assert [result["id"] for result in results] == expected


def test_search_by_text_and_picture(server, model):
    status, _, data = ask(server, "GET", "/search?n=4&q=" + urllib.parse.quote("a red circle"))
    results = json.loads(data)["results"]
    text = np.asarray(model.encode_text(model.preprocessing.text(["a red circle"])))[0]
    cosines = vectors(model) @ text
    names = [int(result["path"].split("/")[-1][0]) for result in results]
    assert (status, names) == (200, np.argsort(-cosines)[:4].tolist())
    expected = 1 / (1 + np.exp(-(10 * cosines[names[0]] - 3)))
    assert results[0]["probability"] == pytest.approx(expected, rel=1e-4)
    assert [result["rank"] for result in results] == [1, 2, 3, 4]
    middle = 1 / (1 + np.exp(-(10 * np.median(cosines) - 3)))
    explanation = results[1]["explanation"]
    assert explanation.startswith(f"Rank 2 of 9. The cosine with the text is {np.sort(cosines)[-2]:.3f}.")
    assert f"logit is 10 x {np.sort(cosines)[-2]:.3f} - 3 = {10 * np.sort(cosines)[-2] - 3:.3f}" in explanation
    assert f"in the middle of this folder gets {share_text(middle)}." in explanation
    status, _, data = ask(server, "GET", "/search?n=2&like=" + urllib.parse.quote("deep/er/3.png"))
    result = json.loads(data)["results"][0]
    assert (status, result["path"], result["probability"]) == (200, "deep/er/3.png", None)
    assert "a cosine is no probability" in result["explanation"]
    status, _, data = ask(server, "POST", "/similar?n=1", PICTURES[6], X_Search="1")
    assert (status, json.loads(data)["results"][0]["path"]) == (200, "6.jpg")


def test_labels(server, model):
    labels = ["a red circle", "großes Quadrat", "x"]
    query = "&".join("label=" + urllib.parse.quote(label) for label in labels)
    status, _, data = ask(server, "POST", f"/labels?{query}", PICTURES[2], X_Search="1")
    rows = json.loads(data)["labels"]
    cosines = np.asarray(model.encode_text(model.preprocessing.text(labels))) @ vectors(model)[2]
    shares = np.exp(10 * cosines.astype(float)) / np.exp(10 * cosines.astype(float)).sum()
    assert status == 200
    assert [row["label"] for row in rows] == [labels[i] for i in np.argsort(-shares)]
    np.testing.assert_allclose([row["share"] for row in rows], -np.sort(-shares), rtol=1e-4)


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status"),
    [
        ("GET", "/nothing", None, {}, 404),
        ("GET", "/picture/999", None, {}, 404),
        ("GET", "/picture/../../etc/passwd", None, {}, 404),
        ("GET", "/picture/-1", None, {}, 404),
        ("GET", "/search?q=", None, {}, 400),
        ("GET", "/search?like=../../etc/passwd", None, {}, 404),
        ("GET", "/browse?n=" + "9" * 5_000, None, {}, 400),
        ("GET", "/style.css", None, {}, 404),
        ("GET", "/search?q=" + "x" * 1_001, None, {}, 400),
        ("GET", "/about", None, {"Host": "evil.example"}, 403),
        ("GET", "/about", None, {"Host": ""}, 403),
        ("POST", "/similar", b"x", {}, 403),
        ("POST", "/similar", b"no picture", {"X_Search": "1"}, 415),
        ("POST", "/similar", b"", {"X_Search": "1"}, 415),
        ("POST", "/nothing", b"x", {"X_Search": "1"}, 404),
        ("POST", "/labels", PICTURES[0], {"X_Search": "1"}, 400),
        ("POST", "/labels?" + "label=a&" * 201, PICTURES[0], {"X_Search": "1"}, 400),
        ("POST", "/similar", b"", {"X_Search": "1", "Content_Length": str(MAX_UPLOAD + 1)}, 413),
        ("POST", "/similar", iter([b"a"]), {"X_Search": "1", "Transfer_Encoding": "chunked"}, 411),
        ("DELETE", "/picture/0", None, {}, 501),
        ("GET", "/picture/" + "9" * 5_000, None, {}, 400),
        ("GET", "http://[", None, {"Host": "localhost"}, 400),
        ("GET", "/about", None, {"Host": "["}, 400),
        ("GET", "/search?q=a&n=" + "9" * 5_000, None, {}, 400),
        ("POST", "/similar", b"", {"X_Search": "1", "Content_Length": "\xb2"}, 400),
    ],
)
def test_refusals(server, method, path, body, headers, status):
    assert ask(server, method, path, body, **headers)[0] == status
    assert ask(server, "GET", "/about")[0] == 200


def test_a_picture_that_went_away(server):
    position = next(i for i, file in enumerate(server.index.files) if file.path == "8.jpg")
    (server.index.folder / "8.jpg").unlink()
    assert ask(server, "GET", f"/picture/{position}")[0] == 410
    assert ask(server, "GET", f"/thumbnail/{position}")[0] == 410
    assert not (server.index.folder / INDEX_FOLDER / "x").exists()
