import json
import os
import signal
import subprocess
import sys
import time

import pytest

from recipes import quickstart
from siglip_tf.experiments import tasks
from siglip_tf.training import read_metrics
from tests.experiments.test_tasks import write_folder

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
    scenes = tasks.scenes
    monkeypatch.setattr(quickstart, "MODEL", SMALL)
    monkeypatch.setattr(tasks, "scenes", lambda seed, image_size: scenes(seed, 30, image_size))
    monkeypatch.setattr(tasks, "_TOKENIZER_EXAMPLES", 200)


def test_a_whole_run_reports_and_then_says_that_it_is_done(small, tmp_path, capsys):
    folder = tmp_path / "run"
    arguments = ["--run", str(folder), "--batch", "8"]
    assert quickstart.main([*arguments, "--steps", "3"]) == 0
    shown = capsys.readouterr().out
    for text in ("[1/5]", "[5/5]", "Zero-shot accuracy over 100 classes", "Image to text R@5", "answered"):
        assert text in shown
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "Where it errs" in page and "a picture of" in page and page.count("<svg") == 6
    assert (folder / "saved_model" / "1" / "saved_model.pb").exists()
    assert (folder / "checkpoint" / "config.json").exists()

    before = (folder / "report.html").stat().st_mtime_ns
    assert quickstart.main([*arguments, "--steps", "3"]) == 0
    assert "Done already: 3 steps" in capsys.readouterr().out
    assert (folder / "report.html").stat().st_mtime_ns == before


@pytest.mark.slow
def test_more_steps_go_on_from_the_last_one(small, tmp_path, capsys):
    folder = tmp_path / "run"
    arguments = ["--run", str(folder), "--batch", "8"]
    assert quickstart.main([*arguments, "--steps", "3"]) == 0
    assert quickstart.main([*arguments, "--steps", "5"]) == 0
    assert "Resumed at step 3" in capsys.readouterr().out
    assert [line["step"] for line in read_metrics(str(folder / "metrics.jsonl"))] == [1, 2, 3, 4, 5]
    figures = json.loads((folder / "figures.json").read_text())
    assert (figures["steps"], figures["pairs"]) == (5, 40) and figures["seconds"] > 0


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


def test_the_command_line_explains_itself(capsys):
    with pytest.raises(SystemExit) as stop:
        quickstart.main(["--help"])
    assert stop.value.code == 0
    assert "goes on where the last one stopped" in " ".join(capsys.readouterr().out.split())


def test_what_cannot_be_is_said_before_any_work(tmp_path, capsys):
    run = tmp_path / "run"
    assert quickstart.main(["--run", str(run), "--steps", "0"]) == 2
    assert "error: Expected --steps >= 1" in capsys.readouterr().err
    assert not run.exists()

    run.mkdir()
    (run / "thesis.txt").write_text("mine")
    assert quickstart.main(["--run", str(run), "--fresh"]) == 2
    assert "is no quickstart's" in capsys.readouterr().err
    assert (run / "thesis.txt").exists()

    assert quickstart.main(["--run", str(tmp_path / "other"), "--data", str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_another_run_in_the_same_folder_is_refused(tmp_path, capsys):
    run = tmp_path / "run"
    first = quickstart._Run(quickstart.parser().parse_args(["--run", str(run), "--batch", "8"]))
    first.begin()
    assert quickstart.main(["--run", str(run), "--batch", "16"]) == 2
    message = capsys.readouterr().err
    assert "another batch (8, now 16)" in message and "--fresh" in message


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
    assert "Stopped by a signal after step" in shown and "The same command goes on" in shown
    assert list((tmp_path / "run" / "checkpoints").iterdir())
