"""Tiny cells: 64 pictures, two or three steps."""

import math

import numpy as np
import pytest

from recipes.studies import cell as cells
from recipes.studies import choice, loss_probe, small, store, training
from recipes.studies.cell import Cell, with_requirements, write_result

DATA = {"images": 96, "image_size": 32, "languages": ["en", "de"], "seed": 0, "evaluated": 24}
MODEL = {
    **small.MODEL,
    "image_size": 32,
    "image_width": 16,
    "image_depth": 1,
    "image_mlp_dim": 16,
    "image_heads": 2,
    "text_width": 16,
    "text_mlp_dim": 16,
}
IMAGE = {name: value for name, value in MODEL.items() if name.startswith("image")} | {"text": "mu"}
TOWER = Cell(
    "tower",
    {"data": DATA, "model": IMAGE, "batch": 16, "examples": 32, "learning_rate": 1e-3, "seed": 9, "jit": False},
    "tower",
)
GERMAN = {"languages": ["de"], "vocabulary": 160, "length": 16}
FROZEN = {"pretrained": TOWER.settings, "frozen": True}


def tiny(seed=0, **changes):
    changes = {"text": GERMAN, "jit": False, **changes}  # compiling takes longer than a tiny run
    settings = small.cell("tiny", seed, batch=16, examples=48, **changes).settings
    return Cell("train", {**settings, "data": DATA, "model": {**MODEL, **changes.get("model", {})}})


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


def test_stored_embeddings_are_the_towers(root):
    with np.load(TOWER.folder(root) / "embeddings.npz") as file:
        shapes = {name: file[name].shape for name in file}
        assert shapes == {name: (96 if name in ("train", "noise") else 24, 16) for name in (*store.PARTS, "noise")}
        np.testing.assert_allclose(np.linalg.norm(file["train"], axis=1), 1, rtol=1e-5)
    assert 0 <= TOWER.result(root)["subject"] <= 1
    layout, labels = (load(DATA, "result", root) for load in (store.load_layouts, store.load_labels))
    colour_and_shape = [{(c, s) for s, c, _ in scene if s} for scene in layout]
    assert all(
        (label // 10 % 10 + 1, label % 10 + 1) in seen for label, seen in zip(labels, colour_and_shape, strict=True)
    )


def test_a_run_does_not_depend_on_what_its_process_did_before(root, tmp_path):
    """Cells of a group share a compiled loop. The second one computes what it would compute alone."""
    first = tiny(1, tower=FROZEN, noise={"generic": 0.5, "repeated": 0.5}, model={"init_bias": -3.0})
    second = tiny(2, tower=FROZEN, optimizer={"learning_rate": 1e-3}, model={"init_bias": -5.0})
    assert training.group(first.settings) == training.group(second.settings)
    compute(first, root)
    after = compute(second, root)
    alone = cells.KINDS["train"].compute(second.settings, tmp_path, root)
    training.forget()
    fresh = cells.KINDS["train"].compute(second.settings, tmp_path, root)
    assert after == alone == fresh
    assert after["curves"]["loss"] != first.result(root)["curves"]["loss"]
    assert after["steps"] == 3 and after["curves"]["step"] == [1, 2, 3] and after["diverged_at"] is None
    assert after["initial_loss"] == after["curves"]["loss"][0]
    assert after["curves"]["bias"][0] == pytest.approx(-5.0, abs=0.2)
    assert set(after["final"]["by_language"]) == {"de"}
    for name in ("zero_shot", "choosing", "held_out", "recall_at_1", "recall_at_5"):
        assert 0 <= after["final"][name] <= 1


def test_settings_are_chosen_on_seeds_and_pictures_of_their_own(root):
    options = [{"learning_rate": rate, "init_bias": -3.0} for rate in (1e-9, 1e-3)]
    chosen_from = {"base": {**tiny(tower=FROZEN).settings}, "options": options, "seeds": 2}
    del chosen_from["base"]["seed"]
    cell = choice.cell(chosen_from)
    seeds = {run.settings["seed"] for runs in choice.candidates(chosen_from) for run in runs}
    assert seeds == {1000, 1001} and len(cell.needs) == 4
    for number, run in enumerate(cell.needs):
        result = {"final": {"choosing": 0.1 * number, "zero_shot": 1 - 0.1 * number}}
        run.folder(root).mkdir(parents=True)
        write_result(run, root, result, 0.0)
    assert compute(cell, root)["chosen"] == options[1]
    run = tiny(5, tower=FROZEN, choice=chosen_from)
    assert cell.key in {needed.key for needed in run.needs}
    result = compute(run, root)
    assert result["chosen"] == options[1] and result["curves"]["bias"][0] == pytest.approx(-3.0, abs=0.2)
    assert choice.shown(result["chosen"]) == "learning rate 0.001, b = -3"
    # What noise and corruption do is not chosen for.
    clean, noisy = (small.siglit("x", 0, batch=16, examples=48, choose=options, **more) for more in ({}, NOISY))
    assert clean.settings["choice"] == noisy.settings["choice"]


NOISY = {"noise": {"empty": 0.5}, "corruption": {"kind": "text", "probability": 0.5}}


def test_a_pretrained_tower_goes_on_from_its_weights(root):
    changes = {
        "tower": {**FROZEN, "frozen": False, "decay": False, "learning_rate_multiplier": 0.1},
        "few_shot": True,
        "evaluate_at": (1 / 3,),
        "corruption": {"kind": "image_text_batch", "probability": 0.5},
        "optimizer": {"learning_rate": 1e-8, "scalars_learning_rate": 1.0},
    }
    result = compute(tiny(3, **changes), root)
    assert len(result["evaluations"]) == 2 and 0 <= result["final"]["few_shot"] <= 1
    # At a learning rate of nothing the tower stays what it was.
    assert result["curves"]["update_norm"][0] < 1e-5
    run = training._run_of(training.group(tiny(3, **changes).settings), root)
    with np.load(TOWER.folder(root) / "embeddings.npz") as file:
        np.testing.assert_allclose(run._embed_images("result"), file["result"], atol=1e-4)


def test_every_picture_once_an_epoch():
    order = training.epochs(10, 4, 5, seed=3)
    assert order.shape == (5, 4)
    assert sorted(order.ravel()[:10]) == sorted(order.ravel()[10:]) == list(range(10))


def test_tokens_know_their_captions(root):
    compute(store.tokens(DATA, GERMAN), root)
    (train,) = store.load_tokens(DATA, GERMAN, ["train_de"], root)
    assert train.shape == (96, store.CAPTIONS, 16)
    assert len(np.unique(train.reshape(-1, 16), axis=0)) > 100


def test_the_initial_loss_is_its_closed_form(tmp_path):
    cases = [[-10.0, 256], [0.0, 100]]
    found = loss_probe.initial_losses({"cases": cases}, tmp_path, tmp_path)["losses"]
    expected = [math.log1p(math.exp(-b)) + (n - 1) * math.log1p(math.exp(b)) for b, n in cases]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.slow
def test_the_compiled_loop_computes_what_the_plain_one_does(root):
    plain, compiled = (compute(tiny(4, tower=FROZEN, jit=jit), root) for jit in (False, True))
    for name, curve in plain["curves"].items():
        np.testing.assert_allclose(compiled["curves"][name], curve, rtol=1e-3, err_msg=name)


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
