"""The compiled resize against Pillow and TensorFlow to the bit, and what happens where it cannot be built."""

import logging

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from siglip_tf.data import ImagePreprocessing
from siglip_tf.data.images import fused_resize
from siglip_tf.data.preprocessing import METHODS
from tests.data.pictures import encode, photo, pillow_resize

# Odd and even, one pixel, fewer bytes than a vector has, taller than Pillow narrows first, enlarged and shrunk.
SHAPES = [
    (1, 1), (1, 300), (300, 1), (2, 5), (3, 4), (7, 6), (5, 17), (60, 81), (17, 999), (224, 224), (225, 300),
    (375, 500), (500, 100), (1200, 50), (300, 32), (768, 1024),
]  # fmt: skip


@pytest.fixture(autouse=True)
def _built():
    if not fused_resize.can_fuse():
        pytest.skip("no C compiler or no AVX2: install gcc")


def image_of(rng, shape, kind):
    image = rng.integers(0, 256, (*shape, 3), np.uint8)
    return (image > 127).astype(np.uint8) * 255 if kind == "hard edges" else image


@pytest.mark.parametrize("size", [1, 7, 16, 33, 224])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("resample", ["bicubic", "bilinear"])
@pytest.mark.parametrize("kind", ["noise", "hard edges"])
def test_equals_pillow_to_the_bit(rng, shape, size, resample, kind):
    image = image_of(rng, shape, kind)
    expected = pillow_resize(Image.fromarray(image), size, Image.Resampling[resample.upper()])
    np.testing.assert_array_equal(fused_resize.fused_resize(image, size, resample), expected)


@pytest.mark.parametrize("size", [1, 7, 16, 33, 224])
@pytest.mark.parametrize("shape", SHAPES)
def test_big_vision_equals_tensorflow_to_the_bit(rng, shape, size):
    image = image_of(rng, shape, "noise")
    resized = tf.image.resize(image, (size, size), method="bilinear", antialias=False)
    expected = tf.cast(tf.clip_by_value(resized, 0, 255), tf.uint8)
    np.testing.assert_array_equal(fused_resize.fused_resize(image, size, "big_vision"), expected)


@pytest.mark.parametrize("method", [METHODS[0], *(pytest.param(m, marks=pytest.mark.slow) for m in METHODS[1:])])
def test_pipelines_have_it_and_saved_models_do_not(method):
    data = encode(photo(60, 81), "JPEG")
    preprocess = ImagePreprocessing(32, method)
    spec = [tf.TensorSpec([], tf.string)]
    fused = tf.function(lambda data: preprocess.pixels(data, fused=True), input_signature=spec)
    plain = tf.function(preprocess.pixels, input_signature=spec)
    apart = np.abs(fused(data).numpy().astype(int) - plain(data).numpy())
    assert apart.max() <= (0 if method == "big_vision" else 2)

    def operations(function):
        graph = function.get_concrete_function().graph.as_graph_def()
        nodes = [*graph.node, *(node for each in graph.library.function for node in each.node_def)]
        return {node.op for node in nodes}

    assert "SiglipTf>FusedResize" in operations(fused)
    assert "SiglipTf>FusedResize" not in operations(plain)


def test_an_image_without_pixels_is_refused():
    with pytest.raises(tf.errors.InvalidArgumentError, match="no side empty"):
        fused_resize.fused_resize(tf.zeros([0, 5, 3], tf.uint8), 8, "bicubic")


@pytest.mark.parametrize("compiler", [None, "false"])
def test_without_a_compiler_tensorflow_does_it_and_a_message_says_so(monkeypatch, caplog, rng, compiler, tmp_path):
    image = image_of(rng, (60, 81), "noise")
    expected = ImagePreprocessing(32).pixels(image)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(fused_resize, "_compiler", lambda: compiler)
    fused_resize._operation.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            np.testing.assert_array_equal(ImagePreprocessing(32).pixels(image, fused=True), expected)
            assert not fused_resize.can_fuse()
        assert [record.message for record in caplog.records if "TensorFlow's own operations" in record.message] != []
        assert len(caplog.records) == 1
        with pytest.raises(ValueError, match="can_fuse"):
            fused_resize.fused_resize(image, 32, "bicubic")
        assert not list(tmp_path.rglob("*.so"))
    finally:
        fused_resize._operation.cache_clear()
