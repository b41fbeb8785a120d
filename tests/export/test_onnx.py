"""ONNX files answer like the model, by onnxruntime, which nobody here wrote; so does the example of their README."""

import json
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

import siglip_tf
from siglip_tf.data import ImagePreprocessing, NaFlexPreprocessing, Preprocessing, Tokenizer
from siglip_tf.export import onnx
from tests.example_model import example_model, pictures, vocabulary
from tools.export_checks import onnx_towers, tower_inputs

TEXTS = ["a cat", "a dog"]  # those of the README's example


def naflex_model(**arguments):
    model = example_model(max_patches=12, **arguments)
    model.preprocessing = Preprocessing(NaFlexPreprocessing(16, 12), model.preprocessing.text)
    return model


def embedded(model, images, texts):
    prepared = [model.preprocessing.image(image) for image in images]
    prepared = tf.nest.map_structure(lambda *values: tf.stack(values), *prepared)
    ids = model.preprocessing.text(texts)
    return prepared, ids.numpy(), model.encode_image(prepared).numpy(), model.encode_text(ids).numpy()


MODELS = {
    "plain": example_model,
    "scanned": lambda: example_model(scan_layers=True, remat="block"),
    "mean": lambda: example_model(image_pool="gap", loss="softmax", text_head=False),
    "class token": lambda: example_model(image_pool="tok", token_bottleneck=6),
    "NaFlex": naflex_model,
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", MODELS)
def test_the_files_answer_like_the_model(kind, tmp_path):
    pytest.importorskip("tf2onnx", reason="pip install -e .[onnx]")
    model = MODELS[kind]()
    export = onnx.export_onnx(model, tmp_path)
    ask = onnx_towers(export.path)
    files = {name: pathlib.Path(export.path, f"{name}.onnx").stat().st_size for name in onnx.TOWERS}
    assert export.model_bytes == sum(files.values())
    images, ids, image_embeddings, text_embeddings = embedded(model, pictures(3), [*TEXTS, ""])
    for batch in (3, 1):  # the batch is dynamic
        part = tf.nest.map_structure(lambda value, n=batch: value[:n], images)
        found = ask("encode_image", **tower_inputs(part)), ask("encode_text", token_ids=ids[:batch])
        for got, expected in zip(found, (image_embeddings, text_embeddings), strict=True):
            np.testing.assert_allclose(got, expected[:batch], rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "least", "share"), [("float16", 0.999, 0.6), ("int8_weights", 0.99, 0.5)])
def test_narrow_weights(precision, least, share, tmp_path):
    pytest.importorskip("tf2onnx", reason="pip install -e .[onnx]")
    model = example_model()
    whole = onnx.export_onnx(model, tmp_path / "float32").model_bytes
    export = onnx.export_onnx(model, tmp_path / precision, precision=precision)
    assert export.model_bytes < share * whole
    ask = onnx_towers(export.path)
    images, ids, image_embeddings, text_embeddings = embedded(model, pictures(3), TEXTS)
    assert np.sum(ask("encode_image", **tower_inputs(images)) * image_embeddings, -1).min() >= least
    assert np.sum(ask("encode_text", token_ids=ids) * text_embeddings, -1).min() >= least


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "int8_weights"])
def test_large_towers_lie_in_two_files(precision, tmp_path, monkeypatch):
    pytest.importorskip("tf2onnx", reason="pip install -e .[onnx]")
    monkeypatch.setattr(onnx, "_MOST_BYTES", 1000)
    model = example_model()
    export = onnx.export_onnx(model, tmp_path, precision=precision)
    assert export.model_bytes == sum(file.stat().st_size for file in tmp_path.glob("*.onnx*"))
    assert (tmp_path / "encode_text.onnx.data").is_file()
    ask = onnx_towers(export.path)
    images, ids, image_embeddings, text_embeddings = embedded(model, pictures(2), TEXTS)
    least = 1 - 1e-6 if precision == "float32" else 0.99
    assert np.sum(ask("encode_image", **tower_inputs(images)) * image_embeddings, -1).min() >= least
    assert np.sum(ask("encode_text", token_ids=ids) * text_embeddings, -1).min() >= least


# Runs the README's Python in each folder, in a process that cannot import TensorFlow or this package.
_ALONE = """
import os, re, sys
for name in ("tensorflow", "tensorflow_text", "keras", "siglip_tf"):
    sys.modules[name] = None
import numpy
for folder in sys.argv[1:]:
    os.chdir(folder)
    (code,) = re.findall("```python\\n(.*?)```", open("README.md").read(), re.S)
    names = {}
    exec(code, names)
    numpy.savez("answers.npz", **{name: names[name] for name in ("image", "texts", "logits")})
"""


def run_readmes(folders):
    command = [sys.executable, "-c", _ALONE, *map(str, folders)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]


def readme_models():
    """Models whose READMEs differ: each resize, lower case, and treatment of transparency and EXIF."""
    plain = example_model()
    stripped = example_model(loss="softmax")
    text = Tokenizer(vocabulary(), 8, punctuation="strip", lower_case="simple", pad_id=0)
    stripped.preprocessing = Preprocessing(ImagePreprocessing(32, "bicubic_antialias", alpha="white"), text)
    ascii_only = example_model()
    text = Tokenizer(vocabulary(), 8, lower_case="ascii")
    ascii_only.preprocessing = Preprocessing(ImagePreprocessing(32, "bilinear_antialias", exif=False), text)
    return {"plain": plain, "stripped": stripped, "ascii": ascii_only, "naflex": naflex_model()}


def check_answers(folder, model, picture):
    answers = np.load(folder / "answers.npz")
    _, _, image, texts = embedded(model, [picture], TEXTS)
    np.testing.assert_allclose(answers["image"], image, rtol=0, atol=2e-3)  # a level of 255 in a few pixels
    np.testing.assert_allclose(answers["texts"], texts, rtol=0, atol=1e-4)
    logits = model.logits(tf.constant(image), tf.constant(texts)).numpy()
    np.testing.assert_allclose(answers["logits"], logits, rtol=0, atol=0.02)


@pytest.mark.slow
def test_the_readme_answers_like_the_model_without_tensorflow(tmp_path):
    pytest.importorskip("tf2onnx", reason="pip install -e .[onnx]")
    models = readme_models()
    picture = pictures(2, seed=3, size=(70, 52))[1]  # a PNG: decoders of JPEG differ
    for name, model in models.items():
        onnx.export_onnx(model, tmp_path / name)
        (tmp_path / name / "picture.jpg").write_bytes(picture)
        code = re.findall("```python\n(.*?)```", (tmp_path / name / "README.md").read_text(), re.S)[0]
        assert not re.search("tensorflow|siglip_tf", code)
    run_readmes([tmp_path / name for name in models])
    for name, model in models.items():
        check_answers(tmp_path / name, model, picture)
        settings = json.loads((tmp_path / name / "preprocessing.json").read_text())
        assert settings["text"]["pad_id"] == model.preprocessing.text.pad_id
        assert (tmp_path / name / "tokenizer.model").read_bytes() == vocabulary()


def test_what_cannot_be_exported_is_refused_first(model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    with pytest.raises(ModuleNotFoundError, match=re.escape("pip install 'siglip-tf[onnx]'")):
        onnx.export_onnx(model, tmp_path)
    with pytest.raises(ValueError, match="no preprocessing"):
        onnx.export_onnx(siglip_tf.SigLIP("mu/16", "mu", 32, 8, 120), tmp_path)
    with pytest.raises(ValueError, match="'int4'"):
        onnx.export_onnx(model, tmp_path, precision="int4")
    assert not list(tmp_path.iterdir())
