"""Image bytes to RGB pixels inside the graph, with the size read from the header before anything is decoded.

Source: big_vision `pp/ops_image.py` (`decode`); Pillow `ImageOps.exif_transpose` (Hugging Face's `load_image`).
"""

import tensorflow as tf

# What Pillow warns at: three bytes a pixel make a quarter of a gibibyte.
MAX_PIXELS = 1024**3 // 4 // 3

_HEADER_BYTES = 32


def _is_jpeg(data: tf.Tensor) -> tf.Tensor:
    return tf.strings.substr(data, 0, 3) == b"\xff\xd8\xff"


def _container_size(data: tf.Tensor) -> tf.Tensor:
    """int64 (height, width) from the header of a PNG, GIF or BMP; zeros for anything else."""
    header = tf.cast(tf.io.decode_raw(data, tf.uint8, fixed_length=_HEADER_BYTES), tf.int64)

    def big_endian(offset: int) -> tf.Tensor:
        return tf.tensordot(header[offset : offset + 4], tf.constant([1 << 24, 1 << 16, 1 << 8, 1], tf.int64), 1)

    def little_endian(offset: int, size: int) -> tf.Tensor:
        return tf.tensordot(header[offset : offset + size], tf.constant([1 << 8 * i for i in range(size)], tf.int64), 1)

    # A BMP stored top row first has a negative height.
    height = little_endian(22, 4)
    height = tf.where(height >= 1 << 31, (1 << 32) - height, height)
    starts = tf.strings.substr(data, 0, 2)
    return tf.case(
        [
            (starts == b"\x89P", lambda: tf.stack([big_endian(20), big_endian(16)])),
            (starts == b"GI", lambda: tf.stack([little_endian(8, 2), little_endian(6, 2)])),
            (starts == b"BM", lambda: tf.stack([height, little_endian(18, 4)])),
        ],
        default=lambda: tf.zeros([2], tf.int64),
    )


def image_size(data: tf.Tensor) -> tf.Tensor:
    """Height and width of an encoded image from its header alone.

    Args:
        data: scalar string, the bytes of a JPEG, PNG, GIF or BMP file.

    Returns:
        int64 (2,): height, width in pixels, before any EXIF rotation; zeros for an unknown format.

    Raises:
        tf.errors.InvalidArgumentError: a JPEG without a readable header.
    """
    return tf.cond(
        _is_jpeg(data),
        lambda: tf.cast(tf.io.extract_jpeg_shape(data)[:2], tf.int64),
        lambda: _container_size(data),
    )


def _check_size(size: tf.Tensor, max_pixels: int) -> tf.Operation:
    height, width = size[0], size[1]
    return tf.debugging.Assert(
        height * width <= max_pixels,
        [f"The image's header announces more than max_pixels={max_pixels} pixels (height, width):", height, width],
    )


def _decode_jpeg(data: tf.Tensor, max_pixels: int, accurate: bool, ratio: int) -> tf.Tensor:
    with tf.control_dependencies([_check_size(tf.cast(tf.io.extract_jpeg_shape(data), tf.int64), max_pixels)]):
        data = tf.identity(data)
    return tf.io.decode_jpeg(data, channels=3, ratio=ratio, dct_method="INTEGER_ACCURATE" if accurate else "")


def _decode_bmp(data: tf.Tensor) -> tf.Tensor:
    pixels = tf.io.decode_bmp(data)
    channels = tf.shape(pixels)[2]
    pixels = tf.cond(channels < 3, lambda: tf.repeat(pixels[:, :, :1], 3, axis=2), lambda: pixels[:, :, :3])
    return tf.ensure_shape(pixels, [None, None, 3])


def _decode_other(data: tf.Tensor, max_pixels: int) -> tf.Tensor:
    with tf.control_dependencies([_check_size(_container_size(data), max_pixels)]):
        data = tf.identity(data)

    def decode() -> tf.Tensor:
        pixels = tf.io.decode_image(data, channels=3, expand_animations=False)
        return tf.ensure_shape(pixels, [None, None, 3])

    # decode_image refuses a BMP that has not exactly the channels asked for.
    return tf.cond(tf.strings.substr(data, 0, 2) == b"BM", lambda: _decode_bmp(data), decode)


def decode_image(data: tf.Tensor, *, accurate: bool, max_pixels: int = MAX_PIXELS) -> tf.Tensor:
    """RGB pixels of one encoded image: grey repeated, alpha dropped, CMYK converted, first frame of a GIF.

    Args:
        data: scalar string, the bytes of a JPEG, PNG, GIF or BMP file.
        accurate: True decodes JPEG with the accurate inverse DCT, as Pillow and PyTorch do; False with
            TensorFlow's faster default, as big_vision does.
        max_pixels: largest height * width that is decoded.

    Returns:
        uint8 (height, width, 3), before any EXIF rotation.

    Raises:
        tf.errors.InvalidArgumentError: undecodable bytes, or a header that announces more than `max_pixels`.
    """
    return tf.cond(
        _is_jpeg(data),
        lambda: _decode_jpeg(data, max_pixels, accurate, ratio=1),
        lambda: _decode_other(data, max_pixels),
    )
