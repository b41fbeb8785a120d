"""Tools with a NaFlex checkpoint: evaluation and search on pictures of several shapes."""

import json

import numpy as np
import pytest

from siglip_tf.data import NaFlexPreprocessing, Preprocessing
from tests.example_model import example_model, pictures
from tools import evaluate, precompute_embeddings
from tools.search.index import Index, Towers


@pytest.fixture(scope="module")
def model():
    model = example_model(max_patches=12)
    model.preprocessing = Preprocessing(NaFlexPreprocessing(16, 12), model.preprocessing.text)
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("birds")
    for i, size in enumerate([(30, 90), (90, 30), (64, 64), (17, 200)]):
        (folder / ("red", "blue")[i % 2]).mkdir(exist_ok=True)
        (folder / ("red", "blue")[i % 2] / f"{i}.png").write_bytes(pictures(2, seed=i, size=size)[1])
    return folder


@pytest.mark.slow
def test_evaluate_and_search(model, folder, tmp_path, capsys):
    model.save_checkpoint(tmp_path / "checkpoint")
    task = f"zero_shot:folder={folder}"
    assert evaluate.main([str(tmp_path / "checkpoint"), "--tasks", task, "--output", str(tmp_path / "out")]) == 0
    metrics = json.loads((tmp_path / "out" / "results.json").read_text())["results"][0]["metrics"]
    files = sorted(folder.rglob("*.png"), key=lambda file: str(file.relative_to(folder)))
    images = model.encode_image([file.read_bytes() for file in files]).numpy()
    classes = model.encode_text(model.preprocessing.text(["a photo of a blue", "a photo of a red"])).numpy()
    right = [("blue", "red").index(file.parent.name) for file in files]
    assert metrics["top1"] == np.mean(np.argmax(images @ classes.T, 1) == right)

    towers, index = Towers(model), Index(folder)
    assert index.update(towers, "tiny").embedded == 4
    np.testing.assert_allclose(towers.image(files[0].read_bytes()), images[0], rtol=0, atol=1e-5)
    (first, score), *_ = index.search(towers.image(files[3].read_bytes()), 4)
    assert index.files[first].path == str(files[3].relative_to(folder))
    assert score == pytest.approx(1, abs=1e-5)

    assert precompute_embeddings.main([str(tmp_path / "checkpoint"), str(folder), str(tmp_path / "stored")]) == 2
    assert "a NaFlex model" in capsys.readouterr().err
