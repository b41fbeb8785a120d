"""Preprocessing against Pillow, TensorFlow's own resize, and hostile bytes."""

import functools
import io
import json
import struct

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from siglip_tf.data import Augmentation, ImagePreprocessing, Preprocessing, Tokenizer
from siglip_tf.data.images.header import image_size
from siglip_tf.data.images.pillow_resize import resize_as_pillow
from tests.data.pictures import encode, photo, pillow_resize


def with_alpha(image: Image.Image, mode: str) -> Image.Image:
    image = image.convert(mode)
    image.putalpha(Image.fromarray(np.asarray(image.convert("L"))))
    return image


def rotated(orientation: int, byte_order: str = "<") -> bytes:
    exif = Image.Exif()
    exif[0x010F] = "a maker, so that orientation is not the first tag"
    exif[0x0112] = orientation
    exif.endian = byte_order
    return encode(photo(41, 60), "JPEG", exif=exif.tobytes())


ODD_IMAGES = {
    "jpeg": lambda: encode(photo(60, 81), "JPEG", quality=95),
    "jpeg 4:4:4": lambda: encode(photo(60, 81), "JPEG", subsampling=0),
    "jpeg progressive": lambda: encode(photo(61, 80), "JPEG", progressive=True),
    "jpeg grey": lambda: encode(photo(60, 80).convert("L"), "JPEG"),
    "jpeg cmyk": lambda: encode(photo(60, 80).convert("CMYK"), "JPEG"),
    "jpeg rotated": lambda: rotated(6),
    "jpeg huge": lambda: encode(photo(2500, 3300), "JPEG"),
    "jpeg one pixel wide": lambda: encode(photo(300, 1), "JPEG"),
    "jpeg one pixel high": lambda: encode(photo(1, 300), "JPEG"),
    "png": lambda: encode(photo(60, 80), "PNG"),
    "png one pixel": lambda: encode(photo(1, 1), "PNG"),
    "png grey": lambda: encode(photo(60, 80).convert("L"), "PNG"),
    "png grey alpha": lambda: encode(with_alpha(photo(60, 80), "LA"), "PNG"),
    "png rgba": lambda: encode(with_alpha(photo(60, 80), "RGBA"), "PNG"),
    "png palette": lambda: encode(photo(60, 80).convert("P"), "PNG"),
    "png palette transparent": lambda: encode(photo(60, 80).convert("P"), "PNG", transparency=3),
    "png bits": lambda: encode(photo(60, 80).convert("1"), "PNG"),
    "gif": lambda: encode(photo(60, 80).convert("P"), "GIF"),
    "gif animated": lambda: encode(
        photo(60, 80).convert("P"), "GIF", save_all=True, append_images=[photo(60, 80, 1).convert("P")]
    ),
    "bmp": lambda: encode(photo(60, 80), "BMP"),
    "bmp rgba": lambda: encode(photo(60, 80).convert("RGBA"), "BMP"),
    "bmp grey": lambda: encode(photo(60, 80).convert("L"), "BMP"),
    "bmp palette": lambda: encode(photo(60, 80).convert("P"), "BMP"),
    "webp": lambda: encode(photo(60, 80), "WEBP"),
    "webp lossless": lambda: encode(photo(60, 80), "WEBP", lossless=True),
    "webp rgba": lambda: encode(with_alpha(photo(60, 80), "RGBA"), "WEBP"),
    "webp rgba lossless": lambda: encode(with_alpha(photo(60, 80), "RGBA"), "WEBP", lossless=True),
}


@functools.cache
def in_graph(method: str, size: int = 32):
    """One traced function for every image of a method; the input's shape is not part of the trace."""
    signature = [tf.TensorSpec([], tf.string)]
    return tf.function(ImagePreprocessing(size, method).pixels, input_signature=signature)


@pytest.mark.parametrize("name", ODD_IMAGES)
def test_bicubic_antialias_equals_pillow_on_odd_images(name):
    data = ODD_IMAGES[name]()
    pixels = in_graph("bicubic_antialias")(data).numpy()
    image = Image.open(io.BytesIO(data))
    if image.format == "JPEG":
        image = ImageOps.exif_transpose(image)
    error = np.abs(pixels - pillow_resize(image.convert("RGB"), 32))
    assert error.mean() <= 0.01
    assert error.max() <= 1


@pytest.mark.parametrize("name", ODD_IMAGES)
def test_big_vision_decodes_and_resizes_by_its_own_ops(name):
    data = ODD_IMAGES[name]()
    image = Image.open(io.BytesIO(data)).convert("RGB")
    assert image_size(tf.constant(data)).numpy().tolist() == [image.height, image.width]
    decoded = np.asarray(image)
    if "jpeg" in name:  # its inverse DCT is not Pillow's
        decoded = tf.io.decode_image(data, channels=3, expand_animations=False)
    expected = tf.cast(tf.clip_by_value(tf.image.resize(decoded, (32, 32)), 0, 255), tf.uint8)
    np.testing.assert_array_equal(in_graph("big_vision")(data), expected)


@pytest.mark.parametrize("shape", [(64, 64), (60, 81), (1, 300), (300, 1), (375, 500), (7, 5)])
def test_big_vision_pixels_are_its_ops(rng, shape):
    image = rng.integers(0, 256, (*shape, 3), np.uint8)
    resized = tf.image.resize(image, (64, 64), method="bilinear", antialias=False)
    expected = tf.cast(tf.clip_by_value(resized, 0, 255), tf.uint8)
    np.testing.assert_array_equal(ImagePreprocessing(64).pixels(image), expected)


def test_normalize_is_minus_one_to_one():
    every = np.arange(256, dtype=np.uint8)[:, None].repeat(3, 1)
    normal = ImagePreprocessing.normalize(tf.constant(every))
    assert normal.dtype == tf.float32
    np.testing.assert_allclose(normal, every / 255 * 2 - 1, atol=1e-7)


@pytest.mark.parametrize("size", [32, 224])
@pytest.mark.parametrize(
    "shape", [(60, 81), (375, 500), (500, 100), (1200, 50), (224, 300), (300, 32), (7, 5), (2, 999)]
)
@pytest.mark.parametrize(
    ("resample", "kind"), [("bicubic", "noise"), ("bicubic", "hard edges"), ("bilinear", "hard edges")]
)
def test_resizing_equals_pillow_where_clipping_bites(rng, shape, size, kind, resample):
    image = rng.integers(0, 256, (*shape, 3), np.uint8)
    if kind == "hard edges":
        image = (image > 127).astype(np.uint8) * 255
    expected = pillow_resize(Image.fromarray(image), size, Image.Resampling[resample.upper()])
    error = np.abs(resize_as_pillow(tf.constant(image), size, resample).numpy() - expected)
    assert error.mean() <= 0.05
    assert error.max() <= 2


def test_scaled_decoding_stays_near_and_changes_nothing_where_it_cannot_scale():
    exact = ImagePreprocessing(64, "bicubic_antialias")
    scaled = ImagePreprocessing(64, "bicubic_antialias", scaled_decoding=True)
    small, large = encode(photo(100, 120), "JPEG"), encode(photo(100, 120).resize((720, 600)), "JPEG")
    np.testing.assert_array_equal(exact.pixels(small), scaled.pixels(small))
    difference = np.abs(exact.pixels(large).numpy().astype(int) - scaled.pixels(large).numpy())
    assert 0 < difference.mean() < 1.5


@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_equals_pillow(orientation, byte_order):
    data = rotated(orientation, byte_order)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    assert np.abs(in_graph("bicubic_antialias")(data).numpy() - pillow_resize(upright, 32)).max() <= 1


def test_broken_exif_is_upright():
    plain = encode(photo(20, 30), "JPEG")
    for segment in (
        b"Exif\x00\x00",
        b"Exif\x00\x00II*\x00\xff\xff\xff\xff",
        b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\xff\xff",
    ):
        data = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + plain[2:]
        np.testing.assert_array_equal(
            ImagePreprocessing(16, exif=True).pixels(data), ImagePreprocessing(16, exif=False).pixels(data)
        )


def bombs() -> dict[str, bytes]:
    png = bytearray(encode(photo(8, 8), "PNG"))
    png[16:24] = struct.pack(">II", 60_000, 60_000)
    bmp = bytearray(encode(photo(8, 8), "BMP"))
    bmp[18:26] = struct.pack("<ii", 60_000, -60_000)
    jpeg = bytearray(encode(photo(8, 8), "JPEG"))
    start = jpeg.index(b"\xff\xc0")
    jpeg[start + 5 : start + 9] = struct.pack(">HH", 60_000, 60_000)
    gif = bytearray(encode(photo(8, 8).convert("P"), "GIF"))
    start = gif.index(b"\x2c\x00\x00\x00\x00")
    gif[start + 5 : start + 9] = struct.pack("<HH", 60_000, 60_000)
    webp = bytearray(encode(with_alpha(photo(8, 8), "RGBA"), "WEBP"))
    webp[24:30] = b"\xff\xff\x00\xff\xff\x00"
    return {name: bytes(data) for name, data in locals().items() if isinstance(data, bytearray)}


@pytest.mark.parametrize("name", ["png", "bmp", "jpeg", "gif", "webp"])
@pytest.mark.parametrize("method", ["big_vision", "bicubic_antialias"])
def test_a_decompression_bomb_is_refused_by_its_header(name, method):
    with pytest.raises(tf.errors.InvalidArgumentError, match="max_pixels"):
        in_graph(method)(bombs()[name])


def test_max_pixels_is_the_last_size_allowed():
    data = encode(photo(20, 30), "JPEG")
    ImagePreprocessing(8, max_pixels=600).pixels(data)
    with pytest.raises(tf.errors.InvalidArgumentError, match="max_pixels = 599"):
        ImagePreprocessing(8, max_pixels=599).pixels(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not an image",
        b"GIF89a",
        b"\x89PNG",
        b"BM",
        b"RIFF....WEBP",
        b"\xff\xd8\xff",
        encode(photo(30, 30), "PNG")[:200],
        encode(photo(30, 30), "JPEG")[:300],
        encode(photo(30, 30).convert("1"), "BMP"),
        encode(photo(30, 30), "WEBP", save_all=True, append_images=[photo(30, 30, 1)]),
    ],
)
def test_undecodable_bytes_are_an_invalid_argument(data):
    with pytest.raises(tf.errors.InvalidArgumentError):
        in_graph("bicubic_antialias")(data)


def test_static_shapes_in_a_pipeline():
    dataset = tf.data.Dataset.from_tensors(encode(photo(20, 30), "PNG")).map(ImagePreprocessing(16))
    assert dataset.element_spec.shape == (16, 16, 3)
    assert dataset.element_spec.dtype == tf.float32


def test_augmentation_is_seeded_and_off_by_default(rng):
    image = rng.integers(0, 256, (40, 50, 3), np.uint8)
    preprocess = ImagePreprocessing(16)
    np.testing.assert_array_equal(
        preprocess.pixels(image), preprocess.pixels(image, Augmentation(), tf.constant([1, 2]))
    )
    augmentation = Augmentation(flip=True, crop_area=(0.05, 0.5))
    draws = [preprocess.pixels(image, augmentation, tf.constant([7, i])).numpy() for i in range(8)]
    again = [preprocess.pixels(image, augmentation, tf.constant([7, i])).numpy() for i in range(8)]
    np.testing.assert_array_equal(draws, again)
    assert len({draw.tobytes() for draw in draws}) == 8
    with pytest.raises(ValueError, match="seed"):
        preprocess.pixels(image, augmentation)


def test_flips_are_half_and_crops_keep_their_area(rng):
    image = tf.constant(rng.integers(0, 256, (200, 300, 3), np.uint8))
    augmentation = Augmentation(flip=True, crop_area=(0.2, 0.6), crop_aspect=(0.8, 1.25))
    mirror, crop = tf.function(augmentation.mirror), tf.function(augmentation.crop)
    flipped = sum(bool(tf.reduce_any(mirror(image, tf.constant([0, i])) != image)) for i in range(400))
    assert 150 < flipped < 250  # five standard deviations
    for i in range(50):
        height, width, _ = crop(image, tf.constant([1, i])).shape
        assert 0.19 <= height * width / 60_000 <= 0.61
        assert 0.78 <= width / height <= 1.28


def test_config_round_trip(vocabulary):
    preprocessing = Preprocessing(ImagePreprocessing(24, "bicubic_antialias", exif=False), Tokenizer(vocabulary, 8))
    again = Preprocessing.from_config(json.loads(json.dumps(preprocessing.to_config())))
    assert again.to_config() == preprocessing.to_config()
    config = preprocessing.to_config(vocabulary=False)
    assert "model_proto" not in config["text"]
    assert Preprocessing.from_config(config, vocabulary).to_config() == preprocessing.to_config()
    assert Preprocessing.from_config(Preprocessing(ImagePreprocessing(24)).to_config()).text is None


def test_errors_name_the_value():
    with pytest.raises(ValueError, match="'nearest'"):
        ImagePreprocessing(8, "nearest")
    with pytest.raises(ValueError, match="Received: 0"):
        ImagePreprocessing(0)
    with pytest.raises(ValueError, match="antialias"):
        ImagePreprocessing(8, scaled_decoding=True)
    with pytest.raises(ValueError, match=r"float32 \(8, 8, 3\)"):
        ImagePreprocessing(8).pixels(np.zeros((8, 8, 3), np.float32))
    with pytest.raises(ValueError, match=r"string \(2,\)"):
        ImagePreprocessing(8).pixels([b"a", b"b"])
    with pytest.raises(ValueError, match="crop_area"):
        Augmentation(crop_area=(0.0, 1.0))
    with pytest.raises(ValueError, match="crop_aspect"):
        Augmentation(crop_aspect=(2.0, 1.0))
