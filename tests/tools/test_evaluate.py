"""`python -m tools.evaluate`: table, JSON and page from a checkpoint; faults end with a sentence."""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

from siglip_tf.evaluation import readers
from siglip_tf.evaluation.embed import Embedder
from siglip_tf.evaluation.tasks import Evaluation, RetrievalTask, ZeroShotTask
from tests.evaluation.layouts import write_folder, write_xm3600
from tests.evaluation.test_embed import free_port
from tests.example_model import example_model
from tools import evaluate


def test_table_json_and_page_of_two_devices(checkpoint, tmp_path, capsys):
    write_folder(tmp_path / "birds", {"red": 4, "blue": 3})
    write_xm3600(tmp_path / "xm3600")
    tasks = [f"zero_shot:folder={tmp_path}/birds,templates=photos", f"retrieval:xm3600={tmp_path}/xm3600"]
    output = tmp_path / "out"
    options = ["--output", str(output), "--batch-size", "4", "--devices", "2"]
    assert evaluate.main([checkpoint, "--tasks", *tasks, *options]) == 0
    printed = capsys.readouterr()
    assert re.search(r"zero_shot/birds +top1 ", printed.out)
    assert "quz" in printed.out
    assert "7 of 7 images" in printed.err
    results = json.loads((output / "results.json").read_text())["results"]
    (expected,) = Evaluation(Embedder(example_model(), 4)).run(
        [ZeroShotTask(readers.labelled_folder(str(tmp_path / "birds")), evaluate.parse_task(tasks[0]).templates)]
    )
    assert results[0]["metrics"] == expected.metrics
    (expected,) = Evaluation(Embedder(example_model(), 64)).run(
        [RetrievalTask(readers.xm3600(str(tmp_path / "xm3600")))]
    )
    assert results[1]["metrics"] == expected.metrics
    assert len(results[1]["rows"]) == 36
    page = (output / "report.html").read_text()
    assert page.startswith("<!doctype html>")
    assert "How to read the scores" in page
    assert sorted(path.name for path in output.iterdir()) == ["report.html", "results.json"]


@pytest.mark.slow
def test_two_workers_share_the_command(checkpoint, tmp_path):
    """Each runs the same line; the first one prints and writes, and its figures are one process's."""
    write_folder(tmp_path / "birds", {"red": 4, "blue": 3})
    task = f"zero_shot:folder={tmp_path}/birds"
    cluster = {"worker": [f"localhost:{free_port()}" for _ in range(2)]}
    command = [sys.executable, "-m", "tools.evaluate", checkpoint, "--tasks", task, "--output", str(tmp_path / "out")]
    root = pathlib.Path(__file__).parents[2]
    workers = []
    for index in range(2):
        environment = os.environ | {
            "TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})
        }
        workers.append(subprocess.Popen(command, env=environment, cwd=root, stdout=subprocess.PIPE, text=True))
    printed = [worker.communicate(timeout=600)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0]
    assert "zero_shot/birds" in printed[0]
    assert "zero_shot/birds" not in printed[1]
    (expected,) = Evaluation(Embedder(example_model(), 4)).run(
        [ZeroShotTask(readers.labelled_folder(str(tmp_path / "birds")))]
    )
    assert json.loads((tmp_path / "out" / "results.json").read_text())["results"][0]["metrics"] == expected.metrics


def test_broken_pictures_are_left_out_and_counted(checkpoint, tmp_path, capsys):
    write_folder(tmp_path / "birds", {"red": 4, "blue": 3})
    (tmp_path / "birds/red/page.jpg").write_text("<html>403</html>")
    (tmp_path / "birds/blue/gone.jpg").symlink_to("/nowhere/x.jpg")
    tasks = [f"zero_shot:folder={tmp_path}/birds", f"retrieval:source={tmp_path}/birds"]
    assert evaluate.main([checkpoint, "--devices", "2", "--batch-size", "2", "--tasks", *tasks]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"zero_shot/birds +top1 .* 7\n", printed)
    assert "1 of 9 images are left out (blue/gone.jpg: a link to a file that is not there)" in printed
    assert "1 of 8 images are left out (red/page.jpg: Not a JPEG, PNG, GIF, BMP or WebP image)" in printed


def test_an_npz_without_tokenizer(tmp_path, capsys):
    write_folder(tmp_path / "birds", {"red": 2, "blue": 2})
    example_model().save_checkpoint(tmp_path / "model.npz", format="big_vision")
    (tmp_path / "model.tokenizer.model").unlink()
    arguments = [str(tmp_path / "model.npz"), "--devices", "1", "--tasks", f"zero_shot:folder={tmp_path}/birds"]
    assert evaluate.main(arguments) == 1
    assert "no tokenizer, so it cannot read texts" in capsys.readouterr().err
    assert evaluate.main([*arguments, "--tokenizer", str(tmp_path / "none")]) == 1
    assert f"No tokenizer at {tmp_path}/none" in capsys.readouterr().err


def test_faults_end_with_a_sentence(checkpoint, capsys):
    assert evaluate.main([checkpoint, "--devices", "1", "--tasks", "zero_shot:folder=/nowhere"]) == 1
    assert capsys.readouterr().err == "/nowhere is not a folder.\n"
    assert evaluate.main([checkpoint, "--devices", "0", "--tasks", "zero_shot:folder=/nowhere"]) == 1
    assert "Expected 1 to 8 devices" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        evaluate.main(["--help"])
    assert "retrieval:xm3600=DIR" in capsys.readouterr().out
