"""Reads an image's size from its header, before any pixel is decoded.

A file of a few kilobytes can announce gigabytes of pixels. The check of the size refuses such a file.

Source: the formats' specifications: JPEG (ITU T.81), PNG (IHDR), GIF89a, BMP (BITMAPINFOHEADER), WebP (RFC 9649).
"""

import tensorflow as tf

from siglip_tf.data.images.gif import gif_announced
from siglip_tf.data.images.graph import assert_that, big_endian, contains, little_endian, read_bytes, starts_with

# Pillow's own limit: a quarter of a gibibyte, at three bytes per pixel.
MAX_PIXELS = 1024**3 // 4 // 3

FORMATS = ("jpeg", "png", "gif", "bmp", "webp", "unknown")


def image_format(data: tf.Tensor) -> tf.Tensor:
    """Returns the format of an image, an int32 index of `FORMATS`, from the first bytes of the scalar string."""
    starts = [
        starts_with(data, b"\xff\xd8\xff"),
        starts_with(data, b"\x89PNG"),
        starts_with(data, b"GIF8"),
        starts_with(data, b"BM"),
        starts_with(data, b"RIFF") & starts_with(data, b"WEBP", 8),
        tf.constant(True),
    ]
    return tf.argmax(tf.stack(starts), output_type=tf.int32)


def _png_size(data: tf.Tensor) -> tf.Tensor:
    header = read_bytes(data, 16, 8)
    return tf.stack([big_endian(header[4:]), big_endian(header[:4])])


def _bmp_size(data: tf.Tensor) -> tf.Tensor:
    header = read_bytes(data, 18, 8)
    height = little_endian(header[4:])
    # A BMP stored top row first has a negative height.
    return tf.stack([tf.where(height >= 1 << 31, (1 << 32) - height, height), little_endian(header[:4])])


def _webp_size(data: tf.Tensor) -> tf.Tensor:
    header = read_bytes(data, 20, 10)
    lossless, side = little_endian(header[1:5]), 1 << 14
    return tf.case(
        [
            (
                starts_with(data, b"VP8X", 12),
                lambda: tf.stack([little_endian(header[7:10]) + 1, little_endian(header[4:7]) + 1]),
            ),
            (
                starts_with(data, b"VP8L", 12),
                lambda: tf.stack([lossless // side % side + 1, lossless % side + 1]),
            ),
        ],
        default=lambda: tf.stack([little_endian(header[8:10]) % side, little_endian(header[6:8]) % side]),
    )


def _announced(data: tf.Tensor) -> tf.Tensor:
    """Returns int64 (3,): height, width, and the number of pixels that decoding makes."""

    def with_pixels(size: tf.Tensor) -> tf.Tensor:
        return tf.stack([size[0], size[1], size[0] * size[1]])

    return tf.switch_case(
        image_format(data),
        [
            lambda: with_pixels(tf.cast(tf.io.extract_jpeg_shape(data), tf.int64)),
            lambda: with_pixels(_png_size(data)),
            lambda: gif_announced(data),
            lambda: with_pixels(_bmp_size(data)),
            lambda: with_pixels(_webp_size(data)),
            lambda: tf.zeros([3], tf.int64),
        ],
    )


def image_size(data: tf.Tensor) -> tf.Tensor:
    """Reads the height and width of an encoded image from its header alone.

    Args:
        data: scalar string, the bytes of a JPEG, PNG, GIF, BMP, or WebP file.

    Returns:
        int64 (2,): height and width in pixels, before any EXIF rotation. Zeros for an unknown format.

    Raises:
        tf.errors.InvalidArgumentError: a JPEG without a readable header.
    """
    return _announced(data)[:2]


def refuse_bomb(pixels: tf.Tensor, announced: list[tf.Tensor] | tf.Tensor, max_pixels: int) -> tf.Operation:
    """Asserts that the int64 scalar `pixels` is at most `max_pixels`. Run it before the decoder."""
    message = f"The image's header announces more than max_pixels = {max_pixels} (height, width):"
    return assert_that(pixels <= max_pixels, [message, *tf.unstack(announced)])


def checked(data: tf.Tensor, max_pixels: int) -> tf.Tensor:
    """Returns the same scalar string after asserting that its header announces at most `max_pixels`."""
    announced = _announced(data)
    with tf.control_dependencies([refuse_bomb(announced[2], announced[:2], max_pixels)]):
        return tf.identity(data)


def png_may_be_transparent(data: tf.Tensor) -> tf.Tensor:
    """Returns a bool scalar: whether a PNG says that it holds alpha or transparent colors."""
    # Color types 4 and 6 hold alpha; any other may name transparent colors in a chunk.
    return (read_bytes(data, 25, 1)[0] // 4 % 2 == 1) | contains(data, "tRNS")


def bmp_may_be_transparent(data: tf.Tensor) -> tf.Tensor:
    """Like `png_may_be_transparent`, for a BMP."""
    header = read_bytes(data, 14, 56)
    # Such a file has 32 bits per pixel with masks, and its header is long enough to hold a mask for alpha.
    return (header[14] == 32) & (header[16] == 3) & (header[0] >= 56) & (tf.reduce_max(header[52:56]) > 0)


def webp_may_be_transparent(data: tf.Tensor) -> tf.Tensor:
    """Like `png_may_be_transparent`, for a WebP."""
    flags = read_bytes(data, 20, 5)
    extended = starts_with(data, b"VP8X", 12)
    lossless = starts_with(data, b"VP8L", 12)
    return (extended & (flags[0] // 16 % 2 == 1)) | (lossless & (flags[4] // 16 % 2 == 1))
