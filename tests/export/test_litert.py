"""LiteRT files answer like the model, by the interpreter of ai-edge-litert, which nobody here wrote."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from siglip_tf.export import litert
from siglip_tf.models.image_tower import PatchEmbedding
from siglip_tf.models.pooling import AttentionPooling
from siglip_tf.models.token_embedding import TokenEmbedding
from siglip_tf.models.transformer import MLP, Block
from siglip_tf.models.variants import TowerSize
from siglip_tf.primitives.activations import gelu_tanh
from siglip_tf.primitives.attention import MultiHeadAttention
from siglip_tf.primitives.bias import add_to_all
from siglip_tf.primitives.normalization import LayerNorm, l2_normalize
from siglip_tf.primitives.projection import Projection
from tests.example_model import example_model, pictures

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
        pytest.param("int8", 0.99, marks=pytest.mark.slow),
    ],
)
def test_the_file_answers_like_the_model(model, asked, tmp_path, precision, least):
    images, ids, image_embeddings, text_embeddings = asked
    data = {"calibration_images": images, "calibration_texts": TEXTS} if precision == "int8" else {}
    export = litert.export_litert(model, tmp_path, precision=precision, **data)
    run = Interpreter(f"{export.path}/{litert.FILE}")
    for batch in (3, 1):  # the batch is dynamic
        for tower, inputs, expected in (
            ("encode_image", {"images": images[:batch]}, image_embeddings[:batch]),
            ("encode_text", {"token_ids": ids[:batch]}, text_embeddings[:batch]),
        ):
            found = run.get_signature_runner(tower)(**inputs)["embedding"]
            assert np.sum(found * expected, -1).min() >= least, tower
            if precision == "float32":
                np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    assert (tmp_path / litert.TOKENIZER_FILE).read_bytes() == model.preprocessing.text.model_proto
    assert "encode_image" in (tmp_path / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        {"image_pool": "gap", "loss": "softmax", "text_head": False},
        {"image_pool": "tok", "token_bottleneck": 6},
        {"scan_layers": True, "remat": "block"},
    ],
)
def test_every_kind_of_model(arguments, tmp_path):
    model = example_model(**arguments)
    run = Interpreter(f"{litert.export_litert(model, tmp_path).path}/{litert.FILE}")
    images = tf.stack([model.preprocessing.image(picture) for picture in pictures(2)])
    ids = model.preprocessing.text(TEXTS[:2])
    found = run.get_signature_runner("encode_image")(images=images.numpy())["embedding"]
    np.testing.assert_allclose(found, model.encode_image(images), rtol=0, atol=1e-5)
    found = run.get_signature_runner("encode_text")(token_ids=ids.numpy())["embedding"]
    np.testing.assert_allclose(found, model.encode_text(ids), rtol=0, atol=1e-5)


_TOKENS, _WIDTH = 6, 32
_SIZE = TowerSize(_WIDTH, 2, 64, 2)
_ROWS = (2 * _TOKENS, _WIDTH)


def built(layer, shape=(None, _TOKENS, _WIDTH)):
    layer.build(shape)
    rng = np.random.default_rng(0)
    for weight in layer.weights:
        weight.assign(0.3 * rng.normal(size=weight.shape))
    return layer


def layers():
    """Each kind of layer of the towers: its function, its weights, and the shape of its input."""

    def of(layer, shape=_ROWS):
        return layer, layer.weights, shape

    def looked_up(layer):
        return lambda x: layer(tf.cast(tf.abs(x), tf.int32) % 20), layer.weights, (2, _TOKENS)

    positions = tf.range(_TOKENS * _WIDTH, dtype=tf.float32)[None]
    return {
        "patch embedding": of(built(PatchEmbedding(_WIDTH, 4, strides=4), (None, 8, 12, 3)), (2, 8, 12, 3)),
        "token embedding": looked_up(built(TokenEmbedding(20, _WIDTH))),
        "bottleneck": looked_up(built(TokenEmbedding(20, _WIDTH, 4))),
        "positions": (lambda x: add_to_all(x, positions), [], (2, _TOKENS * _WIDTH)),
        "norm": of(built(LayerNorm())),
        "gelu": (gelu_tanh, [], _ROWS),
        "projection": of(built(Projection((_WIDTH,), (16,)), None)),
        "attention": of(built(MultiHeadAttention(2))),
        "mlp": of(built(MLP(64))),
        "block": of(built(Block(_SIZE))),
        "pooling": of(built(AttentionPooling(_SIZE)), (2, _TOKENS, _WIDTH)),
        "softmax": (tf.nn.softmax, [], _ROWS),
        "l2": (l2_normalize, [], _ROWS),
    }


def converted(layer, weights, shape, precision):
    """A layer as a function, and as LiteRT's interpreter runs it."""
    module = tf.Module()
    module.copies = [tf.Variable(np.asarray(weight)) for weight in weights]

    @tf.function(input_signature=[tf.TensorSpec([None, *shape[1:]], tf.float32, name="x")], autograph=False)
    def run(x):
        with keras.StatelessScope(list(zip(weights, map(tf.convert_to_tensor, module.copies), strict=True))):
            return {"y": layer(x)}

    module.run = run
    converter = tf.lite.TFLiteConverter.from_concrete_functions([run.get_concrete_function()], module)
    if precision != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if precision == "float16":
        converter.target_spec.supported_types = [tf.float16]
    interpreter = Interpreter(model_content=converter.convert())
    return run, interpreter.get_signature_runner()


def test_an_embedding_of_zeros_stays_one_in_float16():
    """The epsilon 1e-8 is stored as float16 there, which makes it 0."""
    _, ask = converted(l2_normalize, [], (3, 8), "float16")
    x = np.stack([np.zeros(8), np.full(8, 1e-6), np.arange(8)]).astype(np.float32)
    expected = x.astype(np.float64) / (np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True) + 1e-30)
    np.testing.assert_allclose(ask(x=x)["y"], expected, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "float16", "int8_weights"])
def test_every_layer_alone(precision):
    """Random, constant, zero, and large inputs: what divides by a norm, or overflows, would be NaN in one of them."""
    rng = np.random.default_rng(1)
    for name, (layer, weights, shape) in layers().items():
        run, ask = converted(layer, weights, shape, precision)
        random = rng.normal(size=shape).astype(np.float32)
        zeros = np.zeros(shape, np.float32)
        for x in (random, np.full(shape, 3.0, np.float32), zeros, 1e-5 * random, 1000 * random):
            expected, found = run(tf.constant(x))["y"].numpy(), ask(x=x)["y"]
            assert np.isfinite(found).all(), name
            allowed = {"float32": 1e-5, "float16": 2e-3, "int8_weights": 5e-2}[precision]
            scale = max(1.0, float(np.abs(expected).max()))
            np.testing.assert_allclose(found, expected, rtol=0, atol=allowed * scale, err_msg=name)


def test_bad_arguments_are_refused(model, tmp_path):
    with pytest.raises(ValueError, match="calibration"):
        litert.export_litert(model, tmp_path, precision="int8")
    with pytest.raises(ValueError, match="'int4'"):
        litert.export_litert(model, tmp_path, precision="int4")
    assert not list(tmp_path.iterdir())
