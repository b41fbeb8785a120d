"""Embeddings in the order of the data, the same for every batch size, ragged end and number of replicas."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from siglip_tf.data import Preprocessing
from siglip_tf.evaluation import retrieval
from siglip_tf.evaluation.embed import Embedder
from tests.example_model import example_model, pictures
from tests.replicas import mirrored

IMAGES = pictures(11)
TEXTS = [f"a {colour} {shape}" for colour in ("red", "blue", "green", "big") for shape in ("circle", "square", "star")]


@pytest.fixture(scope="module")
def model():
    return example_model()


@pytest.fixture(scope="module")
def examples():
    ids = [f"picture {i}" for i in range(len(IMAGES))]
    return tf.data.Dataset.from_tensor_slices({"image": IMAGES, "id": ids})


@pytest.fixture(scope="module")
def expected(model):
    """One example at a time, by the model alone."""
    images = [model.encode_image(model.preprocessing.image(image)[None]) for image in IMAGES]
    texts = [model.encode_text(model.preprocessing.text([text])) for text in TEXTS]
    return np.concatenate(images), np.concatenate(texts)


@pytest.mark.parametrize("batch_size", [1, 4, 64])
@pytest.mark.slow
def test_batches_change_nothing(model, examples, expected, batch_size):
    embedder = Embedder(model, batch_size)
    done = []
    images, texts = embedder.images(examples, progress=done.append), embedder.texts(TEXTS)
    np.testing.assert_allclose(images, expected[0], rtol=0, atol=1e-6)
    np.testing.assert_allclose(texts, expected[1], rtol=0, atol=1e-6)
    assert done == [*range(batch_size, 11, batch_size), 11]


@pytest.mark.parametrize(("replicas", "batch_size"), [(2, 4), pytest.param(4, 5, marks=pytest.mark.slow)])
def test_replicas_change_nothing(examples, expected, replicas, batch_size):
    strategy = mirrored(replicas)
    with strategy.scope():
        model = example_model()
    embedder = Embedder(model, batch_size)
    assert embedder.strategy is strategy
    assert embedder.batch_size % replicas == 0
    images, texts = embedder.images(examples), embedder.texts(TEXTS)
    np.testing.assert_allclose(images, expected[0], rtol=0, atol=1e-6)
    np.testing.assert_allclose(texts, expected[1], rtol=0, atol=1e-6)
    owner = np.minimum(np.arange(12), 10)
    assert retrieval(images, texts, owner).to_dict() == retrieval(*expected, owner).to_dict()


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("localhost", 0))
        return server.getsockname()[1]


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [4, 12])  # 11 images: a full last batch is not among these, 12 texts' is
def test_two_workers_have_all_embeddings(expected, batch_size, tmp_path):
    """MultiWorkerMirroredStrategy over loopback: each worker ends with what one process alone computes."""
    cluster = {"worker": [f"localhost:{free_port()}" for _ in range(2)]}
    root = pathlib.Path(__file__).parents[2]
    workers = []
    for rank in range(2):
        config = {"cluster": cluster, "task": {"type": "worker", "index": rank}}
        environment = os.environ | {"TF_CONFIG": json.dumps(config), "PYTHONPATH": str(root)}
        command = [
            sys.executable,
            "-m",
            "tests.evaluation.embed_worker",
            str(batch_size),
            str(tmp_path / f"{rank}.npz"),
        ]
        workers.append(subprocess.Popen(command, env=environment, cwd=root))
    assert [worker.wait(300) for worker in workers] == [0, 0]
    for rank in range(2):
        found = np.load(tmp_path / f"{rank}.npz")
        np.testing.assert_allclose(found["images"], expected[0], rtol=0, atol=1e-6)
        np.testing.assert_allclose(found["texts"], expected[1], rtol=0, atol=1e-6)


def test_pooled_is_the_tower_alone(model, examples):
    pooled = Embedder(model, 4).images(examples, pooled=True)
    pixels = tf.stack([model.preprocessing.image(image) for image in IMAGES])
    np.testing.assert_allclose(pooled, model.image(pixels), rtol=0, atol=1e-5)


def test_broken_image_is_named(model, examples):
    broken = {"image": [b"\xff\xd8\xff not a picture"], "id": ["torn.jpg"]}
    with pytest.raises(ValueError, match=r"Image 11 \(torn.jpg\) cannot be decoded"):
        Embedder(model, 4).images(examples.concatenate(tf.data.Dataset.from_tensor_slices(broken)))
    with pytest.raises(ValueError, match="none that can be decoded. The first: torn.jpg: "):
        Embedder(model, 4).sound_images(tf.data.Dataset.from_tensor_slices(broken))


def test_bad_input_is_named(model, examples):
    with pytest.raises(ValueError, match="`batch_size` must be at least 1"):
        Embedder(model, 0)
    with pytest.raises(ValueError, match="nothing to embed"):
        Embedder(model).images(examples.take(0))
    with pytest.raises(ValueError, match="nothing to embed"):
        Embedder(model).texts([])
    same = Embedder(model, 2).texts(["A red circle", "x", "y", "z", "a red circle"])
    np.testing.assert_array_equal(same[0], same[-1])
    bare = example_model()
    bare.preprocessing = None
    with pytest.raises(ValueError, match="no preprocessing of its own"):
        Embedder(bare)
    assert Embedder(bare, preprocessing=Preprocessing(None, model.preprocessing.text)).texts(["a"]).shape == (1, 32)
