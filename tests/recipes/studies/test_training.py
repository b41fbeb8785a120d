"""Tiny cells: 64 pictures, two or three steps."""

import math

import numpy as np
import pytest

from recipes.studies import cell as cells
from recipes.studies import loss_probe, small, store, training
from recipes.studies.cell import Cell, with_requirements, write_result

DATA = {"images": 96, "image_size": 32, "languages": ["en", "de"], "seed": 0, "evaluated": 24}
MODEL = {
    **small.MODEL,
    "image_size": 32,
    "image_width": 16,
    "image_mlp_dim": 16,
    "image_heads": 2,
    "text_width": 16,
    "text_mlp_dim": 16,
    "text_heads": 2,
}


def tiny(seed=0, **changes):
    settings = small.cell("tiny", seed, batch=16, examples=48, **changes).settings
    text = {**settings["text"], "vocabulary": 120}
    return Cell("train", {**settings, "data": DATA, "text": text, "model": {**MODEL, **changes.get("model", {})}})


TOWER = tiny(9, text=small.GERMAN, keep=True)


def compute(cell, root):
    """The cell and what it needs, in this process."""
    for one in with_requirements([cell]):
        if one.result(root) is None:
            folder = one.folder(root)
            folder.mkdir(parents=True)
            write_result(one, root, cells.KINDS[one.kind].compute(one.settings, folder, root), 0.0)
    return cell.result(root)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cells")
    compute(TOWER, folder)
    return folder


def test_a_run_has_curves_and_figures(root):
    result = TOWER.result(root)
    assert result["steps"] == 3 and result["curves"]["step"] == [1, 2, 3] and result["diverged_at"] is None
    assert all(len(curve) == 3 for curve in result["curves"].values())
    assert result["initial_loss"] == result["curves"]["loss"][0]
    assert set(result["final"]["by_language"]) == {"de"}
    for name in ("zero_shot", "zero_shot_held_out", "recall_at_1", "recall_at_5"):
        assert 0 <= result["final"][name] <= 1


def test_stored_embeddings_are_the_towers(root):
    with np.load(TOWER.folder(root) / "embeddings.npz") as file:
        assert {name: file[name].shape for name in file} == {
            "train": (96, 16),
            "validation": (24, 16),
            "test": (24, 16),
        }
        np.testing.assert_allclose(np.linalg.norm(file["train"], axis=1), 1, rtol=1e-5)


def test_a_cell_does_not_depend_on_what_its_process_did_before(root, tmp_path):
    """Seeds share a compiled graph in one process; a cell computed first and one computed second are the same."""
    frozen = {"tower": {"from": dict(TOWER.settings), "frozen": True}, "model": {"loss": "softmax"}}
    first, second = tiny(1, **frozen), tiny(2, **frozen)
    compute(first, root)
    after = compute(second, root)
    alone = cells.KINDS["train"].compute(second.settings, tmp_path, root)
    training.forget()
    fresh = cells.KINDS["train"].compute(second.settings, tmp_path, root)
    assert after == alone == fresh and "bias" not in after["final"]
    assert after["curves"]["loss"] != first.result(root)["curves"]["loss"]


def test_a_pretrained_tower_goes_on_from_its_weights(root):
    tower = {"from": dict(TOWER.settings), "frozen": False, "decay": False, "learning_rate_multiplier": 0.1}
    changes = {
        "tower": tower,
        "few_shot": True,
        "evaluate_at": (1 / 3,),
        "corruption": {"kind": "batch", "probability": 0.5},
    }
    changes["optimizer"] = {"learning_rate": 1e-8, "scalars_learning_rate": 1.0}
    result = compute(tiny(3, **changes), root)
    assert len(result["evaluations"]) == 2 and 0 <= result["final"]["few_shot"] <= 1
    # At a learning rate of nothing the tower stays what it was: with its own text it would know what it knew.
    assert result["curves"]["update_norm"][0] < 1e-5


def test_every_picture_once_an_epoch():
    order = training.epochs(10, 4, 5, seed=3)
    assert order.shape == (5, 4)
    assert sorted(order.ravel()[:10]) == sorted(order.ravel()[10:]) == list(range(10))


def test_tokens_know_their_captions(root):
    (train,) = store.load_tokens(DATA, TOWER.settings["text"], ["train_de"], root)
    assert train.shape == (96, store.CAPTIONS, 16)
    assert len(np.unique(train.reshape(-1, 16), axis=0)) > 100


def test_the_initial_loss_is_its_closed_form(tmp_path):
    cases = [[-10.0, 256], [0.0, 100]]
    found = loss_probe.initial_losses({"cases": cases}, tmp_path, tmp_path)["losses"]
    expected = [math.log1p(math.exp(-b)) + (n - 1) * math.log1p(math.exp(b)) for b, n in cases]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.slow
def test_tiles_take_less_memory_than_the_whole_matrix(tmp_path):
    found = {
        name: loss_probe.peak_bytes({"implementation": name, "dim": 64, "sizes": [4096]}, tmp_path, tmp_path)["bytes"][
            0
        ]
        for name in ("sigmoid, whole matrix", "sigmoid, tiled")
    }
    assert found["sigmoid, whole matrix"] > 4 * 4096**2
    assert found["sigmoid, tiled"] < found["sigmoid, whole matrix"]
