import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import sentencepiece

from recipes import quickstart
from siglip_tf.experiments.config import flat
from siglip_tf.training import read_metrics
from tests.experiments.test_held_out import write_folder

SMALL = {
    **quickstart.MODEL,
    "image_width": 16,
    "image_depth": 1,
    "image_mlp_dim": 16,
    "image_heads": 2,
    "text_width": 16,
    "text_depth": 1,
    "text_mlp_dim": 16,
    "text_heads": 2,
}


@pytest.fixture
def small(monkeypatch):
    """The same run with small towers and few pictures to evaluate on."""
    monkeypatch.setattr(quickstart, "MODEL", SMALL)
    sizes = {
        name: size
        for name, size in SMALL.items()
        if name in quickstart.SCENES and name.endswith(("_depth", "_width", "_dim", "_heads"))
    }
    monkeypatch.setattr(quickstart, "SCENES", {**quickstart.SCENES, **sizes})
    monkeypatch.setattr(quickstart, "SCENES_EVALUATED", 30)
    monkeypatch.setattr("siglip_tf.experiments.report.baseline.MOST_DRAWN", 20)
    monkeypatch.setattr(quickstart, "RECIPE", dataclasses.replace(quickstart.RECIPE, evaluations=1))


def test_a_whole_run_reports_and_then_says_that_it_is_done(small, tmp_path, capsys):
    folder = tmp_path / "run"
    arguments = ["--run", str(folder), "--batch", "8"]
    assert quickstart.main([*arguments, "--steps", "5"]) == 0
    shown = capsys.readouterr().out
    for text in ("Zero-shot accuracy over 100 classes", "Image to text R@5", "answered", "Next: ", "Report: "):
        assert text in shown
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "Where it errs" in page and "a picture of" in page and page.count("<svg") == 9
    assert "What to try next" in page and "nearest neighbor on 16 x 16 pixels" in page
    assert (folder / "saved_model" / "1" / "saved_model.pb").exists()
    assert (folder / "checkpoint" / "config.json").exists()

    before = (folder / "report.html").stat().st_mtime_ns
    assert quickstart.main([*arguments, "--steps", "5"]) == 0
    assert "Done already: 5 steps" in capsys.readouterr().out
    assert (folder / "report.html").stat().st_mtime_ns == before


@pytest.mark.slow
def test_more_steps_go_on_from_the_last_one(small, tmp_path, capsys):
    folder = tmp_path / "run"
    arguments = ["--run", str(folder), "--batch", "8"]
    assert quickstart.main([*arguments, "--steps", "3"]) == 0
    assert quickstart.main([*arguments, "--steps", "5"]) == 0
    assert "Resumed at step 3" in capsys.readouterr().out
    lines = read_metrics(str(folder / "metrics.jsonl"))
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5]
    figures = json.loads((folder / "figures.json").read_text())
    assert (figures["steps"], figures["pairs"]) == (5, 40) and figures["seconds"] > 0


@pytest.mark.slow
def test_a_folder_of_pictures_is_trained_on_and_judged(small, tmp_path, capsys):
    rows = [
        {"image": f"{i}.png", "caption": f"a photo of the {kind}", "label": kind, "split": split}
        for i, (kind, split) in enumerate([("cat", "train"), ("dog", "train"), ("cat", "test"), ("dog", "test")] * 4)
    ]
    data = write_folder(tmp_path / "pets", rows)
    (tmp_path / "pets" / "2.png").write_bytes(b"torn")
    assert quickstart.main(["--data", data, "--run", str(tmp_path / "run"), "--batch", "4", "--steps", "2"]) == 0
    shown = capsys.readouterr().out
    assert "7 held-out pictures, 7 captions; 1 broken ones left out" in shown
    assert "Zero-shot accuracy over 2 classes" in shown


@pytest.mark.slow
def test_pictures_without_labels_are_judged_by_their_captions(small, tmp_path, capsys):
    rows = [
        {"image": f"{i}.png", "caption": f"a {word} number {i}", "split": "test" if i % 3 == 2 else "train"}
        for i, word in enumerate(["cat", "dog", "cow"] * 6)
    ]
    data = write_folder(tmp_path / "pets", rows)
    assert quickstart.main(["--data", data, "--run", str(tmp_path / "run"), "--batch", "4", "--steps", "2"]) == 0
    shown = capsys.readouterr().out
    assert "Image to text R@1" in shown and "Zero-shot" not in shown
    assert "nearest neighbor on 16 x 16 pixels" in shown
    assert "ranked worst" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


def test_the_size_and_the_length_follow_the_data():
    assert [quickstart.steps_for(pairs, 256) for pairs in (10, 960, 5_120, 10**7)] == [500, 500, 800, 3_000]
    found = []
    for pairs in (20, 1_200, 5_000, 50_000):
        c = quickstart.RECIPE.settings()
        quickstart.shape(c, {"model.text_heads"}, pairs)
        found.append((c.batch, c.model.image_size, c.model.text_width, c.model.text_depth))
    assert found == [(16, 32, 256, 1), (150, 32, 256, 1), (256, 32, 256, 1), (256, 64, 128, 2)]


def test_texts_are_as_long_as_the_captions_need(tmp_path):
    rows = [
        {"image": f"{i}.png", "caption": "word " * (9 if i == 7 else 2) + "a", "split": "test" if i > 30 else "train"}
        for i in range(40)
    ]
    c = quickstart.RECIPE.settings()
    c.data = write_folder(tmp_path / "data", rows)
    assert c.model.text_length == 64
    quickstart.prepare(c, str(tmp_path / "run"), False)
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "run" / "tokenizer.model"))
    longest = max(len(pieces.encode(row["caption"])) for row in rows)
    assert c.model.text_length == -(-(longest + 1) // 4) * 4 < 64  # one more for the end mark
    c.model.text_length = 12
    quickstart.prepare(c, str(tmp_path / "run"), False)
    assert c.model.text_length == 12


def test_the_command_line_explains_itself(capsys):
    with pytest.raises(SystemExit) as stop:
        quickstart.main(["--help"])
    assert stop.value.code == 0
    assert "the same command again continues" in " ".join(capsys.readouterr().out.split())


def test_what_cannot_be_is_said_before_any_work(tmp_path, capsys):
    run = tmp_path / "run"
    assert quickstart.main(["--run", str(run), "--steps", "0"]) == 2
    assert "error: --steps: Expected" in capsys.readouterr().err
    assert quickstart.main(["--run", str(run), "--batch", "1"]) == 2
    assert "error: --batch: Expected batch >= 2. Received: 1" in capsys.readouterr().err
    assert not run.exists()

    run.mkdir()
    (run / "thesis.txt").write_text("mine")
    assert quickstart.main(["--run", str(run), "--fresh"]) == 2
    assert "holds no run" in capsys.readouterr().err
    assert (run / "thesis.txt").exists()

    assert quickstart.main(["--run", str(tmp_path / "other"), "--data", str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_another_run_in_the_same_folder_is_refused(tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    c = quickstart.RECIPE.settings()
    quickstart.synthetic(c)
    (run / "settings.json").write_text(json.dumps({**flat(c), "batch": 8}))
    assert quickstart.main(["--run", str(run), "--batch", "16"]) == 2
    message = capsys.readouterr().err
    assert "another batch (8, now 16)" in message and "--fresh" in message
    # An earlier version's quickstart wrote other settings: the error says what still works, and how to start again.
    (run / "settings.json").write_text(json.dumps({"data": "scenes", "model": {}, "batch": 64, "seed": 0}))
    assert quickstart.main(["--run", str(run)]) == 2
    message = capsys.readouterr().err
    assert "earlier version" in message and "stay usable" in message and "--fresh" in message


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_says_how_to_go_on(tmp_path, number):
    command = [sys.executable, "-m", "recipes.quickstart", "--run", str(tmp_path / "run"), "--batch", "8"]
    log = tmp_path / "log"
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow"}
    with open(log, "w") as file:
        process = subprocess.Popen([*command, "--steps", "100000"], stdout=file, stderr=file, env=environment)
        deadline = time.monotonic() + 500
        while not (tmp_path / "run" / "metrics.jsonl").exists() and time.monotonic() < deadline:
            time.sleep(0.2)
            assert process.poll() is None, log.read_text()
        process.send_signal(number)
        assert process.wait(120) == 128 + number
    shown = log.read_text()
    assert "Stopped by a signal after step" in shown and "The same command continues" in shown
    assert list((tmp_path / "run" / "checkpoints").iterdir())
