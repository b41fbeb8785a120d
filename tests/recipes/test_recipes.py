"""Every recipe: the plan at the paper's size, and thirty real steps whose resumed half equals the whole."""

import importlib
import json
import os
import pathlib
import re
import socket
import subprocess
import sys

import numpy as np
import pytest

from recipes import siglip
from siglip_tf import checkpoints
from siglip_tf.experiments import command, run
from siglip_tf.experiments.config import override
from siglip_tf.experiments.inputs import Prepared
from siglip_tf.training import read_metrics
from tests.example_model import example_model

ROOT = pathlib.Path(__file__).parents[2]
NAMES = ("siglip", "siglit", "msiglip", "unlocked", "overtrain", "resolution", "captions_from_tfds")
RECIPES = {name: importlib.import_module(f"recipes.{name}").RECIPE for name in NAMES}

# One block a tower: what is tested is the run, not what it learns.
TINY = "--set=model.image_depth=1", "--set=model.text_depth=1", "--set=batch=8", "--set=checkpoint_every=5"
TINY += ("--set=log_every=1",)

# What the reference says that a right model counts, or the sum of it by hand.
PARAMETERS = {
    ("siglip", "4k"): 203_155_970 - 48 * 768,  # 16 tokens in place of 64
    ("siglit", "b8"): 184_728_322,
    ("msiglip", "k96"): 203_155_970 - 48 * 768 - 32_000 * 768 + 250_000 * 96 + 96 * 768,
    ("msiglip", "full"): 370_626_050 - 48 * 768 - 60 * 768,
    ("overtrain", "B"): 203_155_970 + 60 * 768,
    ("overtrain", "L"): 652_150_786,
    ("resolution", "224"): 203_155_970,
}


def plans():
    """Every setup of every recipe; a few of them are enough for each run of the tests."""
    fast = ("siglit-b8",)
    for name, recipe in RECIPES.items():
        for setup in recipe.setups:
            case = f"{name}-{setup}"
            yield pytest.param(name, setup, id=case, marks=() if case in fast else pytest.mark.slow)


@pytest.mark.parametrize(("name", "setup"), plans())
def test_the_plan_at_the_papers_size(name, setup, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert command.main(RECIPES[name], [setup, "--dry-run"]) == 0
    text = capsys.readouterr().out
    steps, examples = (int(n.replace(",", "")) for n in re.search(r"([\d,]+) steps, ([\d,]+) examples", text).groups())
    assert steps * RECIPES[name].settings(setup).batch == examples
    assert f"python -m recipes.{name} {setup} --dry-run --tpu-report" in text
    if (known := PARAMETERS.get((name, setup))) is not None:
        assert f"{known:,}," in text.split("parameters")[1].split("\n")[0]


def test_a_plan_shows_what_the_compiler_said_before(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    asked = []

    class Answer:
        def to_dict(self):
            return {
                "used_gib": 12.0,
                "usable_gib": 30.75,
                "fits": True,
                "seconds": 2.0,
                "images_per_second_per_chip": 4.0,
                "compiler": "the test's",
            }

    monkeypatch.setattr("siglip_tf.experiments.plan.tpu.report", lambda *arguments: asked.append(arguments) or Answer())
    words = ["--synthetic", "--dry-run", "--set=duration=86400 steps"]
    for more in (["--tpu-report"], []):
        assert command.main(siglip.RECIPE, [*words, *more]) == 0
        text = capsys.readouterr().out
        assert "fits: 12.00 of 30.75 GiB" in text
        assert "2.0 days" in text
    assert len(asked) == 1
    assert asked[0][2] == 32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dry-run", "--set", "batch=3"], "divide"),
        (["--dry-run", "--set", "duration=3 epochs"], "--data"),
        (["--dry-run", "--set", "model.image=B"], "patch size"),
    ],
)
def test_what_cannot_be_planned_says_why(arguments, message, capsys):
    assert command.main(siglip.RECIPE, arguments) == 2
    assert message in capsys.readouterr().err


def test_evaluations_are_those_that_were_asked_for(tmp_path):
    prepared = Prepared(lambda: None, None, 10)
    c = siglip.RECIPE.settings()
    assert run.evaluation_of(siglip.RECIPE, c, prepared, 100, print) is None
    for texts in (["evaluate.tasks=held_out"], ["evaluate.every=5"]):
        c = siglip.RECIPE.settings()
        override(c, texts)
        with pytest.raises(ValueError, match="has no held-out part"):
            run.evaluation_of(siglip.RECIPE, c, prepared, 100, print)
    for name in ("a cat", "dog"):
        (tmp_path / "my birds" / name).mkdir(parents=True)
        (tmp_path / "my birds" / name / "1.jpg").write_bytes(b"")
    task = f"zero_shot:folder={tmp_path}/my birds"
    arguments = command.parser(siglip.RECIPE).parse_args(["--evaluate", task, "--every", "20", "--data", "x"])
    c = command.chosen_settings(siglip.RECIPE, arguments)
    c.evaluate.patience = 3
    evaluation = run.evaluation_of(siglip.RECIPE, c, prepared, 100, print)
    assert (evaluation.every, evaluation.patience, evaluation.best) == (20, 3, "zero_shot/my birds/top1")
    c.evaluate.metric = "top7"
    with pytest.raises(ValueError, match="top7"):
        run.evaluation_of(siglip.RECIPE, c, prepared, 100, print)


@pytest.mark.parametrize("name", ["siglip", "siglit", "unlocked", "resolution"])
def test_a_run_without_data_says_what_to_name(name, capsys, tmp_path):
    assert command.main(RECIPES[name], ["--run", str(tmp_path)]) == 2
    assert "name" in capsys.readouterr().err


def train(name, run, *more, steps, stops=()):
    """Trains in one go, or in several that end at `stops`; returns the checkpoint and the metrics."""
    words = ["--synthetic", *TINY, *more, f"--set=duration={steps} steps", "--run", str(run)]
    for until in (*(["--until", str(stop)] for stop in stops), []):
        assert command.main(RECIPES[name], [*words, *until]) == 0
    return checkpoints.read(run / "checkpoint"), read_metrics(str(run / "metrics.jsonl"))


def whole_and_halves(name, folder, *more, steps=30):
    """Trains all steps at once, and again in two halves; returns both checkpoints and the whole's metrics."""
    whole, metrics = train(name, folder / "whole", *more, steps=steps)
    halves, _ = train(name, folder / "halves", *more, steps=steps, stops=[7])
    return whole, halves, metrics


def check_metrics(metrics, steps):
    assert [line["step"] for line in metrics] == list(range(1, steps + 1))
    assert np.isfinite([line["loss"] for line in metrics]).all()


def check(whole, halves, metrics, steps=30):
    check_metrics(metrics, steps)
    assert whole.weights.keys() == halves.weights.keys()
    for weight, array in whole.weights.items():
        np.testing.assert_array_equal(array, halves.weights[weight], err_msg=weight)


@pytest.fixture(scope="module", autouse=True)
def _few_scenes():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("siglip_tf.experiments.inputs.SCENES_HELD_OUT", 12)
        patch.setattr("siglip_tf.experiments.report.baseline.MOST_DRAWN", 20)
        patch.setattr("recipes.siglit.SYNTHETIC_SCENES", 48)
        yield


@pytest.fixture(scope="module", name="trained")
def fixture_trained(tmp_path_factory):
    """A run of `siglip` in two halves: its folder, its checkpoint, and its metrics."""
    folder = tmp_path_factory.mktemp("siglip") / "run"
    return folder, *train("siglip", folder, steps=15, stops=[7])


def test_siglip_stops_where_it_was_asked_to(tmp_path, capsys):
    words = ["--synthetic", *TINY, "--set=duration=15 steps", "--run", str(tmp_path / "run")]
    assert command.main(siglip.RECIPE, [*words, "--until", "2"]) == 0
    assert "Stopped at step 2 of 15" in capsys.readouterr().out
    metrics = read_metrics(str(tmp_path / "run" / "metrics.jsonl"))
    check_metrics(metrics, 2)
    assert {"image_gradient_norm", "text_update_norm", "positive_logit", "bias"} <= metrics[-1].keys()
    assert command.main(siglip.RECIPE, [*words, "--set=seed=1"]) == 2


@pytest.mark.slow
def test_siglip_trains_in_two_halves(trained):
    folder, _, metrics = trained
    check_metrics(metrics, 15)
    figures = {"image_gradient_norm", "text_update_norm", "positive_logit", "learning_rate", "schedule", "bias"}
    assert figures <= metrics[-1].keys()
    assert metrics[-1]["schedule"] < 0.01
    # The same command again finds the run done; another run is refused.
    same = ["--synthetic", *TINY, "--set=duration=15 steps", "--run", str(folder)]
    assert command.main(siglip.RECIPE, [*same, "--set=seed=1"]) == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["siglip", "msiglip", "overtrain", "captions_from_tfds"])
def test_recipes_from_scratch(name, tmp_path):
    whole, halves, metrics = whole_and_halves(name, tmp_path)
    check(whole, halves, metrics)
    losses = [line["loss"] for line in metrics]
    assert np.mean(losses[-5:]) < np.mean(losses[:5])


@pytest.mark.slow
def test_siglit_on_stored_embeddings(trained, tmp_path):
    start = str(trained[0] / "checkpoint")
    whole, halves, metrics = whole_and_halves("siglit", tmp_path, "--tower", start, "--set=model.image_depth=None")
    check(whole, halves, metrics)
    for name, array in whole.weights.items():
        if name.startswith("image/"):
            np.testing.assert_array_equal(array, trained[1].weights[name], err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("setup", ["no_decay", "locked"])
def test_unlocked_from_a_trained_tower(setup, trained, tmp_path):
    start = str(trained[0] / "checkpoint")
    whole, halves, metrics = whole_and_halves("unlocked", tmp_path, setup, "--start", start)
    check(whole, halves, metrics)
    same = [np.array_equal(a, trained[1].weights[n]) for n, a in whole.weights.items() if n.startswith("image/")]
    assert all(same) == (setup == "locked")
    assert ("image_gradient_norm" in metrics[0]) == (setup != "locked")


@pytest.mark.slow
def test_resolution_goes_on_from_a_trained_model(trained, tmp_path):
    start = str(trained[0] / "checkpoint")
    whole, halves, metrics = whole_and_halves("resolution", tmp_path, "--start", start, "--set=model.image_size=96")
    # A hundredth of the learning rate moves the loss of thirty batches less than the batches differ.
    for weight, array in whole.weights.items():
        np.testing.assert_array_equal(array, halves.weights[weight], err_msg=weight)
    assert whole.weights["image/position_embedding"].shape == (1, 16, 64)
    assert metrics[0]["loss"] < 1.05 * trained[2][-1]["loss"]


def test_the_first_weights_are_the_checkpoints(tmp_path):
    """What `unlocked` begins with: the image tower's weights, and initial ones elsewhere."""
    from recipes import unlocked
    from siglip_tf.experiments.build import build_model

    c = unlocked.RECIPE.settings()
    unlocked.synthetic(c)
    c.model.image_size = 32
    example_model(image_depth=1).save_checkpoint(tmp_path / "start")
    images = checkpoints.read(tmp_path / "start").weights
    c.start = str(tmp_path / "start")
    start = unlocked.adopt(c)
    assert c.model.image_depth == 1  # taken over from the checkpoint
    model = build_model(c, 30)
    before = {name: variable.numpy() for name, variable in model.named_weights().items()}
    run._Start(start.weights, "a test's")(model)
    for name, variable in model.named_weights().items():
        expected = images[name] if name.startswith("image/") else before[name]
        np.testing.assert_array_equal(variable.numpy(), expected, err_msg=name)


@pytest.mark.slow
def test_captions_from_tfds_on_a_mocked_data_set(tmp_path, monkeypatch):
    tfds = pytest.importorskip("tensorflow_datasets")
    words = ("a red bird on a branch", "two dogs run", "the sea at night", "a child with a kite")

    class CocoCaptions(tfds.core.GeneratorBasedBuilder):
        """COCO's features, a few pictures."""

        VERSION = tfds.core.Version("1.0.0")
        name = "mocked_coco_captions"

        def _info(self):
            captions = tfds.features.Sequence({"id": np.int64, "text": tfds.features.Text()})
            features = {"image": tfds.features.Image(), "image/filename": tfds.features.Text(), "captions": captions}
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            pixels = np.random.default_rng(0)
            for i in range(24):
                image = pixels.integers(0, 255, (40, 56, 3), np.uint8)
                texts = [{"id": 5 * i + k, "text": f"{words[i % 4]} {k}"} for k in range(5)]
                yield i, {"image": image, "image/filename": f"{i}.jpg", "captions": texts}

    builder = CocoCaptions(data_dir=str(tmp_path / "tfds"))
    builder.download_and_prepare()
    monkeypatch.setattr(tfds, "builder", lambda name, **options: builder)
    small = siglip.TINY_MODEL | siglip.OFF_TPU | {"vocab_size": 60}
    values = [f"--set=model.{key}={value}" for key, value in small.items()]
    more = ("--set=batch=8", "--set=duration=2 epochs", "--set=log_every=1", "--set=model.dropout=0.0")
    words = ["--data", "tfds:coco_captions", *values, *more, "--run", str(tmp_path / "run")]
    assert command.main(RECIPES["captions_from_tfds"], words) == 0
    metrics = read_metrics(str(tmp_path / "run" / "metrics.jsonl"))
    assert [line["step"] for line in metrics] == list(range(1, 7))
    assert checkpoints.read(tmp_path / "run" / "checkpoint").tokenizer is not None


@pytest.mark.slow
def test_two_workers_by_tf_config(tmp_path):
    sockets = [socket.socket() for _ in range(2)]
    for each in sockets:
        each.bind(("localhost", 0))
    workers = [f"localhost:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    words = [sys.executable, "-m", "recipes.siglip", "--synthetic", *TINY, "--set=duration=30 steps"]
    words += ["--run", str(tmp_path)]
    processes = []
    for index in range(2):
        config = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
        environment = {**os.environ, "TF_CONFIG": json.dumps(config), "TF_CPP_MIN_LOG_LEVEL": "2"}
        output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        processes.append(subprocess.Popen(words, cwd=ROOT, env=environment, **output))
    outputs = [process.communicate(timeout=1800)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert "MultiWorkerMirroredStrategy, 2 replicas" in outputs[0]
    assert len(read_metrics(str(tmp_path / "metrics.jsonl"))) == 30
    assert (tmp_path / "checkpoint" / "weights.safetensors").exists()
