"""`python -m tools.export`: a checkpoint to a served version that answers in a process of its own."""

import pytest
import tensorflow as tf

from tests.example_model import pictures
from tools import export
from tools.benchmark import serving


def test_export_and_check(checkpoint, tmp_path, capsys):
    (tmp_path / "labels.txt").write_text("red circle\nblue square\n")
    arguments = [checkpoint, str(tmp_path / "shop"), "--labels", str(tmp_path / "labels.txt"), "--templates", "photo"]
    assert export.main([*arguments, "--precision", "bfloat16"]) == 0
    printed = capsys.readouterr().out
    assert "classify_bank" in printed
    assert "Its embeddings differ from the model's by at most" in printed
    loaded = tf.saved_model.load(str(tmp_path / "shop" / "1"))
    answer = loaded.signatures["serving_default"](images=tf.constant(pictures(2)))
    assert answer["ranked_labels"].shape == (2, 2)


def test_faults_end_with_a_sentence(checkpoint, tmp_path, capsys):
    assert export.main([checkpoint, str(tmp_path), "--labels", "/nowhere"]) == 1
    assert capsys.readouterr().err == "There is no file '/nowhere'.\n"
    assert export.main([str(tmp_path / "nothing"), str(tmp_path)]) == 1
    (tmp_path / "3").mkdir()
    assert export.main([checkpoint, str(tmp_path), "--version", "3"]) == 1
    assert "3 is there already" in capsys.readouterr().err


@pytest.mark.slow
def test_benchmark(capsys):
    serving.main(["--model", "mu/16", "--text", "mu", "--batch", "2", "--rounds", "1"])
    first, _, *rows = capsys.readouterr().out.splitlines()
    assert first.startswith("export of 1,096,194 parameters, float32: ")
    assert [row.split()[0] for row in rows] == ["embed_image", "embed_text", "score"]
    assert all(float(number) > 0 for row in rows for number in row.split()[1:])
