"""Fine-tuning: what each setup trains, what is chosen by the data's size, and weights that stay as they were."""

import json

import numpy as np
import pytest
import tensorflow as tf

from recipes import finetune, siglip
from siglip_tf import checkpoints
from siglip_tf.experiments import command
from siglip_tf.experiments.build import build_model
from siglip_tf.training import read_metrics

SMALL = {
    "image": "Ti/24",
    "image_size": 72,
    "image_width": 32,
    "image_depth": 3,
    "image_mlp_dim": 32,
    "image_heads": 2,
    "text": "Ti",
    "text_length": 8,
    "vocab_size": 60,
    "text_width": 32,
    "text_depth": 3,
    "text_mlp_dim": 32,
    "text_heads": 2,
    "dtype": "float32",
}
# Parts of the model that each setup trains; "block" stands for all blocks, "last" for the last two.
TRAINED = {
    "whole": {"image/embedding", "image/block_0", "image/block_2", "image/head", "text/embedding", "text/block_0",
              "text/block_2", "text/head", "scalar"},
    "frozen": {"text/embedding", "text/block_0", "text/block_2", "text/head", "scalar"},
    "frozen-text": {"image/embedding", "image/block_0", "image/block_2", "image/head", "scalar"},
    "last": {"image/block_2", "image/head", "text/block_2", "text/head", "scalar"},
    "head": {"image/head", "text/head", "scalar"},
    "scalars": {"scalar"},
}  # fmt: skip


def small(setup):
    c = finetune.RECIPE.settings(setup)
    c.model.update(SMALL)
    c.duration = "10 steps"
    return c


def part_of(path):
    parts = path.split("/")
    if parts[0] not in ("image", "text"):
        return "scalar"
    return f"{parts[0]}/embedding" if "embedding" in parts[1] else "/".join(parts[:2])


@pytest.mark.parametrize("setup", list(TRAINED))
def test_each_setup_trains_its_parts_and_no_other(setup):
    model = build_model(small(setup), 10)
    trained = {part_of(variable.path) for variable in model.trainable_variables}
    norms = {"image/block_1", "text/block_1", "image/final_norm", "text/final_norm"}
    assert trained - norms == TRAINED[setup]
    middle = {"image/block_1", "text/block_1"} & trained
    expected = {part for part in ("image/block_1", "text/block_1") if part.replace("_1", "_2") in TRAINED[setup]}
    assert middle == expected


def test_lora_trains_adapters_and_scalars_alone():
    c = small("lora")
    c.tune.update({"lora_rank": 2, "lora_projections": "q,fc1"})
    c.optimizer.layer_decay = 0.8
    model = build_model(c, 10)
    assert model.has_adapters
    in_towers = [variable.path for variable in model.trainable_variables if part_of(variable.path) != "scalar"]
    adapters = {f"{layer}/lora_kernel_{side}" for layer in ("query", "fc1") for side in "ab"}
    assert {"/".join(path.split("/")[-2:]) for path in in_towers} == adapters
    assert len(model.trainable_variables) == len(in_towers) + 2
    c.tune.text, c.tune.scalars = "frozen", False
    paths = [variable.path for variable in build_model(c, 10).trainable_variables]
    assert paths and all(path.startswith("image/") and "lora" in path for path in paths)


def test_lower_blocks_learn_slower():
    c = small("whole")
    c.optimizer.layer_decay = 0.5
    model = build_model(c, 10)
    rates = {}
    for variable in model.trainable_variables:
        group = next((g for g in model.optimizer.groups if g.matches(variable.path)), None)
        rates.setdefault(part_of(variable.path), set()).add(1.0 if group is None else group.learning_rate_multiplier)
    for tower in ("image", "text"):
        assert rates[f"{tower}/head"] == {1.0}
        assert [rates[f"{tower}/block_{i}"] for i in range(3)] == [{0.125}, {0.25}, {0.5}]
        assert rates[f"{tower}/embedding"] == {0.0625}
    assert all(group.decay_multiplier == 1.0 for group in model.optimizer.groups)
    assert c.optimizer.weight_decay == 0.0


def test_defaults_follow_the_number_of_pairs_and_the_width():
    seen = []
    for pairs in (500, 1_000, 100_000, 10_000_000):
        c = finetune.RECIPE.settings()
        lines = finetune.adapt(c, (), pairs)
        assert f"{pairs:,} pairs" in lines[0] and "width 768" in lines[1]
        seen.append((c.batch, c.duration, c.optimizer.layer_decay))
        assert c.optimizer.learning_rate == pytest.approx(1e-5)
    assert seen == [(62, "20 epochs", 0.8), (64, "20 epochs", 0.8), (512, "5 epochs", 0.9), (4096, "2 epochs", 1.0)]
    c = small("lora")
    finetune.adapt(c, {"batch"}, 10)
    assert c.batch == 64  # it was named
    assert c.optimizer.learning_rate == pytest.approx(10 * 1e-5 * 24**2)


def test_a_start_and_data_must_be_named(capsys, tmp_path):
    assert command.main(finetune.RECIPE, ["--run", str(tmp_path)]) == 2
    assert "name its checkpoint by --start" in capsys.readouterr().err
    (tmp_path / "start").mkdir()
    assert command.main(finetune.RECIPE, ["--start", str(tmp_path / "start")]) == 2
    assert "--data" in capsys.readouterr().err
    for wrong in ("tune.lora_rank=0", "tune.lora_projections=q,w", "tune.image=most"):
        assert command.main(finetune.RECIPE, ["lora", "--set", wrong]) == 2
        assert wrong.split("=")[0] in capsys.readouterr().err


@pytest.fixture(scope="module", name="start")
def fixture_start(tmp_path_factory):
    """A tiny trained model."""
    folder = tmp_path_factory.mktemp("start")
    values = [f"--set=model.{name}={value}" for name, value in SMALL.items() if name != "vocab_size"]
    assert command.main(
        siglip.RECIPE, ["--synthetic", *values, "--set=duration=3 steps", "--set=report=false", "--run", str(folder)]
    ) == 0  # fmt: skip
    return str(folder / "checkpoint")


@pytest.fixture(scope="module", name="data")
def fixture_data(tmp_path_factory):
    """Pictures of one color each, with captions."""
    folder = tmp_path_factory.mktemp("data")
    colors = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
    rows = []
    for number in range(24):
        name = list(colors)[number % 3]
        picture = np.full((80, 80, 3), colors[name], np.uint8)
        (folder / f"{number}.png").write_bytes(tf.io.encode_png(picture).numpy())
        split = "test" if number >= 18 else "train"
        rows.append({"image": f"{number}.png", "caption": f"a {name} picture", "label": name, "split": split})
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


@pytest.mark.slow
def test_a_whole_run_says_what_it_was_before(start, data, tmp_path, capsys):
    arguments = ["last", "--start", start, "--data", data, "--run", str(tmp_path), "--set=batch=6",
                 "--set=tune.last_blocks=1", "--set=duration=4 steps", "--set=log_every=1"]  # fmt: skip
    assert command.main(finetune.RECIPE, arguments) == 0
    shown = capsys.readouterr().out
    assert "18 pairs: batch 6, 4 steps" in shown and "the model before training" in shown
    before, after = checkpoints.read(start), checkpoints.read(tmp_path / "checkpoint")
    same = {name: np.array_equal(array, after.weights[name]) for name, array in before.weights.items()}
    moved = {part_of(name) for name, equal in same.items() if not equal}
    assert moved <= {"scalar", *(f"{t}/{p}" for t in ("image", "text") for p in ("block_2", "final_norm", "head"))}
    assert {"image/block_2", "text/block_2"} <= moved
    assert after.preprocessing["image"] == before.preprocessing["image"]  # it travels with the checkpoint
    metrics = read_metrics(str(tmp_path / "metrics.jsonl"))
    assert [line["step"] for line in metrics if "loss" in line] == [1, 2, 3, 4]
    name = "zero_shot/held_out/top1"
    evaluated = {line["step"]: line[name] for line in metrics if name in line}
    assert set(evaluated) == {0, 1, 2, 3, 4}
    best = json.loads((tmp_path / "best" / "best.json").read_text())
    assert best["metric"] == name and best["value"] == max(evaluated.values())
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "the model before training" in page and "nearest neighbor on 16 x 16 pixels" in page
