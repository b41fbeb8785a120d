"""`python -m tools.export`: a checkpoint to a served version that answers in a process of its own."""

import json
import sys

import pytest
import tensorflow as tf

from tests.example_model import pictures
from tools import export
from tools.benchmark import deploy, serving


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


def test_onnx_says_what_to_install_before_anything_is_read(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    assert export.main([str(tmp_path / "nothing"), str(tmp_path / "web"), "--to", "onnx"]) == 1
    assert "pip install 'siglip-tf[onnx]'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        export.main([str(tmp_path / "nothing"), str(tmp_path), "--to", "onnx", "--precision", "bfloat16"])
    assert "--to onnx knows --precision float32, float16, int8_weights." in capsys.readouterr().err


@pytest.mark.slow
def test_benchmark_of_every_format(checkpoint, tmp_path, capsys):
    """One command asks each format beside the model; random weights know no classes, so accuracy is left at chance."""
    pytest.importorskip("tf2onnx", reason="pip install -e .[onnx]")
    lines = []
    for i, picture in enumerate(pictures(6)):
        folder = tmp_path / "data" / ("red circle", "blue square")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i}.png").write_bytes(picture)
        lines.append(json.dumps({"image": f"{folder.name}/{i}.png", "caption": folder.name}))
    (tmp_path / "data" / "captions.jsonl").write_text("\n".join(lines))
    options = ["--task", f"zero_shot:folder={tmp_path / 'data'}", "--calibration", str(tmp_path / "data")]
    deploy.main([checkpoint, *options, "--rounds", "1"])
    printed = capsys.readouterr().out
    rows = [row.split("|")[1].strip() for row in printed.splitlines() if row.startswith("|")]
    formats = ["litert float32", "litert float16", "litert int8_weights", "litert int8"]
    formats += ["onnx float32", "onnx float16", "onnx int8_weights"]
    assert [row for row in rows if row[0] != "-"] == ["format", "model", "saved_model", *formats]
    assert "Every export is within its bounds." in printed
