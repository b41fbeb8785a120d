"""`python -m tools.calibrate`: a labeled folder in, a checkpoint and a SavedModel that answer yes or no out."""

import json

import numpy as np
import tensorflow as tf

import siglip_tf
from siglip_tf.export import export_saved_model
from tests.evaluation.layouts import write_folder
from tests.example_model import example_model, pictures
from tools import calibrate


def write_sample(root) -> None:
    """Pictures in the class that the model itself prefers, but every third: a sample that can be calibrated."""
    model = example_model()
    names = ("blue", "red")
    data = pictures(28)
    texts = model.encode_text(model.preprocessing.text(list(names)))
    images = model.encode_image(tf.stack([model.preprocessing.image(picture) for picture in data]))
    scores = model.logits(images, texts).numpy()
    for i, (picture, best) in enumerate(zip(data, scores.argmax(axis=1), strict=True)):
        folder = root / names[int(best) ^ (i % 3 == 0)]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i}.png").write_bytes(picture)


def test_from_a_folder_to_a_served_yes_or_no(checkpoint, tmp_path, capsys):
    write_sample(tmp_path / "birds")
    sample = f"zero_shot:folder={tmp_path}/birds,templates=name"
    arguments = [checkpoint, "--sample", sample, "--recall", "0.8", "--scale", "--per-label"]
    folders = ["--write", str(tmp_path / "calibrated"), "--output", str(tmp_path / "out")]
    assert calibrate.main([*arguments, *folders]) == 0, capsys.readouterr().err
    printed = capsys.readouterr().out
    assert "56 pairs, 28 of them match" in printed
    figures = json.loads((tmp_path / "out/calibration.json").read_text())
    assert figures["calibration_error"]["after"] < figures["calibration_error"]["before"]
    page = (tmp_path / "out/calibration.html").read_text()
    assert "<polyline" in page
    assert "Calibration of" in page

    model = siglip_tf.SigLIP.from_checkpoint(tmp_path / "calibrated", verbose=False)
    before = siglip_tf.SigLIP.from_checkpoint(checkpoint, verbose=False)
    assert model.calibration["threshold"] == figures["threshold"]
    assert set(model.calibration["labels"]) == {"red", "blue"}
    fitted = figures["scale"] * np.exp(float(before.log_temperature.numpy()))
    np.testing.assert_allclose(np.exp(float(model.log_temperature.numpy())), fitted, rtol=1e-5)

    export = export_saved_model(model, tmp_path / "export")
    served = tf.saved_model.load(export.path).signatures["classify"]
    files = sorted((tmp_path / "birds").rglob("*.png"))
    images = tf.constant([file.read_bytes() for file in files])
    answer = served(images=images, labels=tf.constant(["blue", "red", "other"]))
    thresholds = [model.calibration["labels"][name] for name in ("blue", "red")] + [figures["threshold"]]
    np.testing.assert_array_equal(answer["matches"], answer["probabilities"] >= np.float32(thresholds))
    truth = np.array([["/blue/" in str(file), "/red/" in str(file)] for file in files])
    assert (answer["matches"].numpy()[:, :2] & truth).sum() >= 0.8 * len(files) - 1  # float32 at the border
    assert "`matches`" in (tmp_path / "export/README.md").read_text()
    notes = model.save_checkpoint(tmp_path / "model.npz", format="big_vision")
    assert any("thresholds of yes and no" in note for note in notes)


def test_faults_end_with_a_sentence(checkpoint, tmp_path, capsys):
    write_folder(tmp_path / "birds", {"red": 2, "blue": 2})
    sample = f"zero_shot:folder={tmp_path}/birds"
    for arguments, says in (
        (["--sample", sample, "--precision", "1.5"], "in (0, 1]"),
        (["--sample", f"few_shot:folder={tmp_path}", "--precision", "0.5"], "is not a folder"),
        (["--sample", "zero_shot:folder=/nowhere", "--precision", "0.5"], "/nowhere is not a folder"),
    ):
        assert calibrate.main([checkpoint, *arguments]) == 1
        assert says in capsys.readouterr().err
