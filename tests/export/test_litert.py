"""LiteRT files answer like the model, by the interpreter of ai-edge-litert, which nobody here wrote."""

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from siglip_tf.export import litert
from tests.example_model import pictures

TEXTS = ["a photo of a red circle", "the large blue square", "two green triangles"]


@pytest.fixture(scope="module")
def asked(model):
    images = tf.stack([model.preprocessing.image(picture) for picture in pictures(3)]).numpy()
    ids = model.preprocessing.text(TEXTS).numpy()
    return images, ids, model.encode_image(images).numpy(), model.encode_text(ids).numpy()


@pytest.mark.parametrize(
    "precision, least",
    [
        ("float32", 1 - 1e-6),
        pytest.param("float16", 0.999, marks=pytest.mark.slow),
        pytest.param("int8_weights", 0.99, marks=pytest.mark.slow),
        pytest.param("int8", 0.9, marks=pytest.mark.slow),
    ],
)
def test_the_file_answers_like_the_model(model, asked, tmp_path, precision, least):
    images, ids, image_embeddings, text_embeddings = asked
    data = {"calibration_images": images, "calibration_texts": TEXTS} if precision == "int8" else {}
    export = litert.export_litert(model, tmp_path, precision=precision, **data)
    run = Interpreter(f"{export.path}/{litert.FILE}")
    for batch in (3, 1):  # the batch is dynamic
        found = run.get_signature_runner("encode_image")(images=images[:batch])["embedding"]
        assert np.sum(found * image_embeddings[:batch], -1).min() >= least
        found = run.get_signature_runner("encode_text")(token_ids=ids[:batch])["embedding"]
        assert np.sum(found * text_embeddings[:batch], -1).min() >= least
    assert (tmp_path / litert.TOKENIZER_FILE).read_bytes() == model.preprocessing.text.model_proto
    assert "encode_image" in (tmp_path / "README.md").read_text()


def test_bad_arguments_are_refused(model, tmp_path):
    with pytest.raises(ValueError, match="calibration"):
        litert.export_litert(model, tmp_path, precision="int8")
    with pytest.raises(ValueError, match="'int4'"):
        litert.export_litert(model, tmp_path, precision="int4")
    assert not list(tmp_path.iterdir())
