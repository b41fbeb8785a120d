"""Image bytes to RGB pixels inside the graph.

Source: big_vision `pp/ops_image.py` (`decode`); Pillow's `Image.convert("RGB")`.
"""

import functools

import tensorflow as tf

from siglip_tf.data.images.header import (
    FORMATS,
    MAX_PIXELS,
    checked,
    image_format,
    rarely,
    read_bytes,
    refuse_bomb,
    starts_with,
)

_RGB = [None, None, 3]


def _decode_jpeg(data: tf.Tensor, max_pixels: int, accurate: bool, at_least: int | None) -> tf.Tensor:
    height, width, _ = tf.unstack(tf.cast(tf.io.extract_jpeg_shape(data), tf.int64))
    with tf.control_dependencies([refuse_bomb(height * width, [height, width], max_pixels)]):
        data = tf.identity(data)
    dct_method = "INTEGER_ACCURATE" if accurate else ""

    def decode(ratio: int) -> tf.Tensor:
        return tf.io.decode_jpeg(data, channels=3, ratio=ratio, dct_method=dct_method)

    if at_least is None:
        return decode(1)
    # 1, 2, 4 or 8: as small as the shorter side allows.
    halvings = tf.reduce_sum(
        tf.cast(tf.minimum(height, width) >= at_least * tf.constant([2, 4, 8], tf.int64), tf.int32)
    )
    return tf.switch_case(halvings, [functools.partial(decode, ratio) for ratio in (1, 2, 4, 8)])


def _decode_png_or_gif(data: tf.Tensor) -> tf.Tensor:
    return tf.ensure_shape(tf.io.decode_image(data, channels=3, expand_animations=False), _RGB)


def _decode_bmp(data: tf.Tensor) -> tf.Tensor:
    """TensorFlow's decoder leaves palettes unread and wants to know the channels."""
    header = tf.cast(read_bytes(data, 0, 54), tf.int64)
    bits = header[28] + 256 * header[29]
    compression = tf.reduce_sum(header[30:34])
    message = "Only BMP files of 8, 24 or 32 bits a pixel without compression can be decoded; bits:"
    with tf.control_dependencies(
        [tf.debugging.Assert(tf.reduce_any(bits == [8, 24, 32]) & ((compression == 0) | (bits == 32)), [message, bits])]
    ):
        data = tf.identity(data)

    def palette() -> tf.Tensor:
        offset = 14 + header[14] + 256 * header[15]
        colors = tf.reshape(read_bytes(data, tf.cast(offset, tf.int32), 1024), [256, 4])[:, 2::-1]
        return tf.gather(tf.cast(colors, tf.uint8), tf.cast(tf.io.decode_bmp(data)[:, :, 0], tf.int32))

    pixels = tf.case(
        [(bits == 8, palette), (bits == 24, lambda: tf.io.decode_bmp(data, channels=3))],
        default=lambda: tf.io.decode_bmp(data, channels=4)[:, :, :3],
    )
    return tf.ensure_shape(pixels, _RGB)


def _decode_webp(data: tf.Tensor) -> tf.Tensor:
    """Still images only. The channels are named: with `channels=0` the op of TensorFlow 2.21 overruns its buffer."""
    flags = read_bytes(data, 20, 5)
    extended = starts_with(data, b"VP8X", 12)
    lossless = starts_with(data, b"VP8L", 12)
    animated = extended & (tf.bitwise.bitwise_and(flags[0], 0x02) > 0)
    alpha = (extended & (tf.bitwise.bitwise_and(flags[0], 0x10) > 0)) | (
        lossless & (tf.bitwise.bitwise_and(flags[4], 0x10) > 0)
    )
    with tf.control_dependencies([tf.debugging.Assert(~animated, ["An animated WebP cannot be decoded."])]):
        data = tf.identity(data)
    pixels = tf.cond(
        alpha,
        lambda: tf.io.decode_webp(data, channels=4)[..., :3],
        lambda: tf.io.decode_webp(data, channels=3),
    )
    return tf.ensure_shape(tf.squeeze(pixels, 0) if pixels.shape.rank == 4 else pixels[0], _RGB)


def _refuse_unknown(data: tf.Tensor) -> tf.Tensor:
    message = "Not a JPEG, PNG, GIF, BMP or WebP image; it begins with the bytes:"
    with tf.control_dependencies([tf.debugging.Assert(tf.constant(False), [message, read_bytes(data, 0, 12)])]):
        return tf.zeros([1, 1, 3], tf.uint8)


def _decode_other(data: tf.Tensor, max_pixels: int) -> tf.Tensor:
    data = checked(data, max_pixels)
    decoders = {"png": _decode_png_or_gif, "gif": _decode_png_or_gif, "bmp": _decode_bmp, "webp": _decode_webp}
    branches = [functools.partial(decoders.get(name, _refuse_unknown), data) for name in FORMATS]
    return tf.switch_case(image_format(data), branches)


def decode_image(
    data: tf.Tensor, *, accurate: bool, max_pixels: int = MAX_PIXELS, at_least: int | None = None
) -> tf.Tensor:
    """RGB pixels of one encoded image: grey repeated, alpha dropped, CMYK converted, first frame of a GIF.

    Args:
        data: scalar string, the bytes of a JPEG, PNG, GIF, BMP or still WebP file.
        accurate: True decodes JPEG with the accurate inverse DCT, as Pillow and PyTorch do; False with
            TensorFlow's default, as big_vision does.
        max_pixels: largest height * width that is decoded (of a GIF: pixels of all its frames).
        at_least: decode a JPEG at a half, a quarter or an eighth where its shorter side stays at least this long,
            in pixels; None decodes all of it.

    Returns:
        uint8 (height, width, 3), before any EXIF rotation.

    Raises:
        tf.errors.InvalidArgumentError: undecodable bytes, or a header that announces more than `max_pixels`.
    """
    return tf.cond(
        starts_with(data, b"\xff\xd8\xff"),
        lambda: tf.ensure_shape(_decode_jpeg(data, max_pixels, accurate, at_least), _RGB),
        rarely(_decode_other, data, max_pixels=max_pixels),
    )
