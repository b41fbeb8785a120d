"""A SavedModel gives the model's own numbers, in processes that know neither this package nor its Python loader."""

import base64
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from siglip_tf.data import Preprocessing, canonicalize
from siglip_tf.export import export_saved_model
from siglip_tf.export.serving import ServingGraph
from tests.example_model import example_model, pictures
from tests.export.conftest import BANK, TEMPLATES
from tests.object_store import ObjectStore

IMAGES = pictures(5)
TEXTS = ["a red circle", "großes rotes Quadrat links", "مربع أزرق", ""]
# TensorFlow imports Keras by itself, and Keras its own backend: no part of these tests.
ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"TF_CPP_MIN_LOG_LEVEL": "3"}


def expected_logits(model, images, classes):
    pixels = tf.stack([model.preprocessing.image(image) for image in images])
    return model.logits(model.encode_image(pixels), classes).numpy()


def embedded(model, texts):
    return model.encode_text(model.preprocessing.text(texts)).numpy()


def class_vectors(model, labels, templates):
    """By the definition, in float64 numpy: mean of the prompts' unit vectors, normalised."""
    prompts = [canonicalize(t, keep="{}").replace("{}", canonicalize(label)) for label in labels for t in templates]
    vectors = embedded(model, prompts).astype(float).reshape(len(labels), len(templates), -1).mean(axis=1)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


QUESTIONS = [
    ("embed_image", {"images": IMAGES}),
    ("embed_text", {"texts": TEXTS}),
    ("score", {"images": IMAGES, "texts": TEXTS}),
    ("classify", {"images": IMAGES, "labels": list(BANK)}),
    ("classify_with_templates", {"images": IMAGES, "labels": ["a_b", "c"], "templates": ["no {}!"]}),
    ("classify_bank", {"images": IMAGES}),
    ("embed_image_pixels", {"pixels": tf.io.decode_image(IMAGES[1])[None].numpy().tolist()}),
    ("embed_image", {"images": []}),
]


@pytest.fixture(scope="module")
def answered_alone(exported, tmp_path_factory):
    """The folder of what `answer_alone.py` answered in a process of its own."""

    def encoded(name, value):
        if name == "pixels":
            return value
        return [base64.b64encode(v if isinstance(v, bytes) else v.encode()).decode() for v in value]

    folder = tmp_path_factory.mktemp("alone")
    questions = [[s, {n: encoded(n, v) for n, v in inputs.items()}] for s, inputs in QUESTIONS]
    (folder / "questions.json").write_text(json.dumps(questions))
    script = pathlib.Path(__file__).with_name("answer_alone.py")
    command = [sys.executable, str(script), exported.path, str(folder / "questions.json"), str(folder)]
    result = subprocess.run(command, env=ENVIRONMENT, cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    return folder


def answered(how, request):
    """The answers to `QUESTIONS`, by name."""
    if how == "here":
        dtypes, answers = {"pixels": tf.uint8}, []
        for name, values in QUESTIONS:
            inputs = {key: tf.constant(value, dtypes.get(key, tf.string)) for key, value in values.items()}
            answer = request.getfixturevalue("signatures")[name](**inputs)
            answers.append({key: value.numpy() for key, value in answer.items()})
        return answers
    found = np.load(request.getfixturevalue("answered_alone") / f"{how}.npz")
    return [
        {name.split("/")[1]: found[name] for name in found.files if name.startswith(f"{i}/")}
        for i in range(len(QUESTIONS))
    ]


@pytest.mark.parametrize("how", ["here", *(pytest.param(h, marks=pytest.mark.slow) for h in ("load", "c_api"))])
def test_answers_are_the_models(how, model, request):
    """In this process, and by `tf.saved_model.load` and the C API in one with TensorFlow and tensorflow-text alone."""
    answers = answered(how, request)
    images, texts, score, classify, templates, bank, pixels, none = answers
    close = {"rtol": 0, "atol": 1e-5}
    own_pixels = tf.stack([model.preprocessing.image(image) for image in IMAGES])
    np.testing.assert_allclose(images["embedding"], model.encode_image(own_pixels), **close)
    np.testing.assert_allclose(texts["embedding"], embedded(model, TEXTS), **close)
    logits = expected_logits(model, IMAGES, embedded(model, TEXTS))
    np.testing.assert_allclose(score["logits"], logits, rtol=0, atol=1e-4)  # ten times a cosine
    np.testing.assert_allclose(score["probabilities"], 1 / (1 + np.exp(-logits.astype(float))), **close)
    logits = expected_logits(model, IMAGES, class_vectors(model, BANK, TEMPLATES))
    for answer in (classify, bank):
        np.testing.assert_allclose(answer["logits"], logits, rtol=0, atol=1e-4)
        shares = np.exp(logits.astype(float))
        np.testing.assert_allclose(answer["softmax"], shares / shares.sum(axis=1, keepdims=True), **close)
        np.testing.assert_array_equal(answer["ranking"], np.argsort(-answer["logits"], axis=1, kind="stable"))
    logits = expected_logits(model, IMAGES, class_vectors(model, ["a_b", "c"], ["no {}!"]))
    np.testing.assert_allclose(templates["logits"], logits, rtol=0, atol=1e-4)
    np.testing.assert_allclose(pixels["embedding"][0], images["embedding"][1], **close)
    assert none["embedding"].shape == (0, 32)
    if how != "c_api":
        names = [[label.decode() for label in row] for row in bank["ranked_labels"].tolist()]
        assert names == [[BANK[i] for i in row] for row in bank["ranking"]]


@pytest.mark.slow
def test_saved_model_cli(model, exported, tmp_path):
    """`show` as it is, `run` with tensorflow-text's ops loaded."""
    tool = "import sys, tensorflow_text; from tensorflow.python.tools import saved_model_cli; saved_model_cli.main()"
    np.save(tmp_path / "images.npy", np.array(IMAGES[:2]))
    arguments = ["--dir", exported.path, "--tag_set", "serve", "--signature_def", "score"]
    show = subprocess.run(
        [str(pathlib.Path(sys.executable).with_name("saved_model_cli")), "show", *arguments],
        env=ENVIRONMENT, cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "inputs['images']" in show.stdout
    assert "outputs['probabilities']" in show.stdout
    inputs = [f"--inputs=images={tmp_path}/images.npy", "--input_exprs=texts=['a red circle','blue']"]
    subprocess.run(
        [sys.executable, "-c", tool, "run", *arguments, *inputs, "--outdir", str(tmp_path)],
        env=ENVIRONMENT, cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    logits = expected_logits(model, IMAGES[:2], embedded(model, ["a red circle", "blue"]))
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), logits, rtol=0, atol=1e-4)


def test_no_keras_object_is_saved(exported):
    saved = saved_model_pb2.SavedModel.FromString(pathlib.Path(exported.path, "saved_model.pb").read_bytes())
    (meta_graph,) = saved.meta_graphs
    kinds = {node.user_object.identifier for node in meta_graph.object_graph_def.nodes}
    assert not [kind for kind in kinds if "keras" in kind]
    signatures = {name for name in meta_graph.signature_def if not name.startswith("__")}
    assert signatures == set(exported.signatures)
    for name in signatures:
        for info in [*meta_graph.signature_def[name].inputs.values(), *meta_graph.signature_def[name].outputs.values()]:
            assert info.tensor_shape.dim[0].size == -1, f"{name}: the batch dimension is fixed"


def test_batched_equals_single(signatures):
    embed = signatures["embed_image"]
    batch = embed(images=tf.constant(IMAGES))["embedding"]
    for i, image in enumerate(IMAGES):
        np.testing.assert_allclose(embed(images=tf.constant([image]))["embedding"][0], batch[i], rtol=0, atol=1e-5)
    score = signatures["score"]
    batch = score(images=tf.constant(IMAGES), texts=tf.constant(TEXTS))["logits"]
    single = score(images=tf.constant(IMAGES[2:3]), texts=tf.constant(TEXTS[1:2]))["logits"]
    np.testing.assert_allclose(single[0, 0], batch[2, 1], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "precision",
    ["int8", pytest.param("bfloat16", marks=pytest.mark.slow), pytest.param("float16", marks=pytest.mark.slow)],
)
def test_narrow_weights(precision, model, exported, signatures, tmp_path):
    """A quarter to a half of the bytes; numbers as the rounding of the weights allows."""
    narrow = export_saved_model(model, tmp_path / "narrow", precision=precision)
    assert narrow.weight_bytes < {"int8": 0.4, "bfloat16": 0.55, "float16": 0.55}[precision] * exported.weight_bytes
    loaded = tf.saved_model.load(narrow.path)
    for name, values in (("embed_image", {"images": IMAGES}), ("embed_text", {"texts": TEXTS})):
        inputs = {k: tf.constant(v) for k, v in values.items()}
        own, other = (s[name](**inputs)["embedding"].numpy() for s in (signatures, loaded.signatures))
        assert np.sum(own * other, axis=1).min() > {"int8": 0.995, "bfloat16": 0.999, "float16": 0.99999}[precision]


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [{"token_bottleneck": 6}, {"loss": "softmax"}, {"text_head": False}])
def test_every_kind_of_model(arguments, tmp_path):
    model = example_model("bicubic_antialias", **arguments)
    loaded = tf.saved_model.load(export_saved_model(model, tmp_path / "m").path)
    found = loaded.signatures["score"](images=tf.constant(IMAGES), texts=tf.constant(TEXTS))["logits"]
    np.testing.assert_allclose(found, expected_logits(model, IMAGES, embedded(model, TEXTS)), rtol=0, atol=1e-4)


@pytest.mark.slow
def test_versions_and_readme(model, exported, tmp_path):
    base = tmp_path / "shop"
    (base / "11").mkdir(parents=True)
    assert export_saved_model(model, base).version == 12
    assert sorted(path.name for path in base.iterdir()) == ["11", "12", "README.md"]
    with pytest.raises(FileExistsError, match="shop/12 is there already"):
        export_saved_model(model, base, version=12)
    text = (base / "README.md").read_text()
    for part in (
        "Version 12",
        "tensorflow_model_server",
        "/v1/models/shop:predict",
        "PredictionServiceStub",
        "b = -3.00",
    ):
        assert part in text
    bank = pathlib.Path(exported.path).with_name("README.md").read_text()
    assert "`serving_default` is `classify_bank`" in bank


@pytest.mark.slow
def test_a_server_that_watches_an_object_store_never_sees_half_a_version(model, monkeypatch):
    store = ObjectStore().install(monkeypatch)
    export = export_saved_model(model, "gs://bucket/model", labels=BANK)
    assert export.path == "gs://bucket/model/1"
    version = {name for name in store.objects if name.startswith("gs://bucket/model/1/")}
    assert {"gs://bucket/model/1/saved_model.pb", "gs://bucket/model/1/variables/variables.index"} <= version
    assert all(version <= seen for seen in store.seen if "gs://bucket/model/1/saved_model.pb" in seen)
    store.fail_at["put"] = store.calls["put"] + len(version)  # its last object
    with pytest.raises(tf.errors.UnavailableError):
        export_saved_model(model, "gs://bucket/model", labels=BANK)
    assert not [name for name in store.objects if name.startswith("gs://bucket/model/2/")]


def test_a_failed_export_leaves_nothing(model, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(tf.saved_model, "save", fail)
    monkeypatch.setattr(ServingGraph, "signatures", lambda _: {})
    with pytest.raises(OSError, match="disk full"):
        export_saved_model(model, tmp_path / "m")
    assert list((tmp_path / "m").iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"preprocessing": Preprocessing(None, None)}, "no preprocessing for images and texts"),
        ({"precision": "int4"}, "Expected precision to be one of float32"),
        ({"labels": ["a", "b", "a"]}, "'a' is there twice"),
        ({"labels": ["a", " "]}, "A label is empty"),
        ({"templates": ["a photo"]}, "exactly one `{}`"),
        ({"version": 0}, "Expected a version above 0"),
        ({"max_pixels": 100}, "max_pixels of at least 1024"),
    ],
)
def test_bad_input_is_named(change, message, model, tmp_path):
    with pytest.raises(ValueError, match=message):
        export_saved_model(model, tmp_path / "m", **change)
    assert not (tmp_path / "m").exists()


def test_preprocessing_that_does_not_fit(model, tmp_path):
    other = example_model(image_size=48)
    with pytest.raises(ValueError, match="takes images of"):
        export_saved_model(other, tmp_path / "m")
    with pytest.raises(ValueError, match="takes 9 tokens"):
        export_saved_model(example_model(text_length=9), tmp_path / "m")
