"""Decodes image bytes to upright RGB pixels in the graph.

Source: big_vision `pp/ops_image.py` (`decode`); Pillow's `Image.convert("RGB")` and `ImageOps.exif_transpose`.
"""

import functools
from collections.abc import Callable

import tensorflow as tf

from siglip_tf.data.images.exif import jpeg_orientation, png_orientation, upright, webp_orientation
from siglip_tf.data.images.gif import decode_gif
from siglip_tf.data.images.graph import rarely, read_bytes, starts_with
from siglip_tf.data.images.header import (
    FORMATS,
    MAX_PIXELS,
    bmp_may_be_transparent,
    checked,
    image_format,
    png_may_be_transparent,
    refuse_bomb,
    webp_may_be_transparent,
)
from siglip_tf.data.images.transparency import without_alpha

_Reader = Callable[[tf.Tensor], tf.Tensor]
_RGB = [None, None, 3]
_RGBA = [None, None, 4]
# An Adobe marker that announces no color transform. A later marker in the file overrides it.
_ADOBE = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"


def _with_adobe_marker(data: tf.Tensor) -> tf.Tensor:
    return tf.strings.join([tf.strings.substr(data, 0, 2), _ADOBE, tf.strings.substr(data, 2, -1)])


def _decode_jpeg(data: tf.Tensor, max_pixels: int, accurate: bool, at_least: int | None) -> tf.Tensor:
    height, width, channels = tf.unstack(tf.cast(tf.io.extract_jpeg_shape(data), tf.int64))
    with tf.control_dependencies([refuse_bomb(height * width, [height, width], max_pixels)]):
        data = tf.identity(data)
    # Programs store CMYK inverted, as Adobe's do, and Pillow reads every CMYK file this way, with or without a marker.
    data = tf.cond(channels == 4, rarely(_with_adobe_marker, data), lambda: data)
    dct_method = "INTEGER_ACCURATE" if accurate else ""

    def decode(ratio: int) -> tf.Tensor:
        return tf.io.decode_jpeg(data, channels=3, ratio=ratio, dct_method=dct_method)

    if at_least is None:
        return decode(1)
    # Divide by 1, 2, 4, or 8, as far as the shorter side allows.
    halvings = tf.reduce_sum(
        tf.cast(tf.minimum(height, width) >= at_least * tf.constant([2, 4, 8], tf.int64), tf.int32)
    )
    return tf.switch_case(halvings, [functools.partial(decode, ratio) for ratio in (1, 2, 4, 8)])


def _decode_png(data: tf.Tensor) -> tf.Tensor:
    return tf.ensure_shape(tf.io.decode_png(data, channels=3), _RGB)


def _decode_transparent_png(data: tf.Tensor) -> tf.Tensor:
    return tf.ensure_shape(tf.io.decode_png(data, channels=4), _RGBA)


def _decode_bmp(data: tf.Tensor) -> tf.Tensor:
    """Decodes a BMP. TensorFlow's decoder ignores palettes and must be told the number of channels."""
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


def _decode_transparent_bmp(data: tf.Tensor) -> tf.Tensor:
    return tf.ensure_shape(tf.io.decode_bmp(data, channels=4), _RGBA)


def _decode_webp(data: tf.Tensor, channels: int = 3) -> tf.Tensor:
    """Decodes a still WebP with an explicit number of channels: `channels=0` overruns a buffer in TensorFlow 2.21."""
    animated = starts_with(data, b"VP8X", 12) & (read_bytes(data, 20, 1)[0] // 2 % 2 == 1)
    with tf.control_dependencies([tf.debugging.Assert(~animated, ["An animated WebP cannot be decoded."])]):
        data = tf.identity(data)
    pixels = tf.io.decode_webp(data, channels=channels)
    pixels = tf.squeeze(pixels, 0) if pixels.shape.rank == 4 else pixels[0]
    return tf.ensure_shape(pixels, [None, None, channels])


def _refuse_unknown(data: tf.Tensor) -> tf.Tensor:
    message = "Not a JPEG, PNG, GIF, BMP or WebP image; it begins with the bytes:"
    with tf.control_dependencies([tf.debugging.Assert(tf.constant(False), [message, read_bytes(data, 0, 12)])]):
        return tf.zeros([1, 1, 3], tf.uint8)


def _decode_other(data: tf.Tensor, max_pixels: int, exif: bool, alpha: str, note: bool) -> tf.Tensor:
    data = checked(data, max_pixels)
    flatten = functools.partial(without_alpha, alpha=alpha, note=note)

    def either(may_be_transparent: _Reader, transparent: _Reader, opaque: _Reader) -> tf.Tensor:
        return tf.cond(may_be_transparent(data), lambda: flatten(transparent(data)), lambda: opaque(data))

    def png() -> tf.Tensor:
        pixels = either(png_may_be_transparent, _decode_transparent_png, _decode_png)
        return upright(pixels, png_orientation(data)) if exif else pixels

    def webp() -> tf.Tensor:
        transparent = functools.partial(_decode_webp, channels=4)
        pixels = either(webp_may_be_transparent, transparent, _decode_webp)
        return upright(pixels, webp_orientation(data)) if exif else pixels

    decoders = {
        "png": png,
        "gif": lambda: flatten(decode_gif(data)),
        "bmp": lambda: either(bmp_may_be_transparent, _decode_transparent_bmp, _decode_bmp),
        "webp": webp,
    }
    unknown = functools.partial(_refuse_unknown, data)
    pixels = tf.switch_case(image_format(data), [decoders.get(name, unknown) for name in FORMATS])
    return tf.ensure_shape(pixels, _RGB)


def decode_image(
    data: tf.Tensor,
    *,
    accurate: bool,
    exif: bool = False,
    alpha: str = "drop",
    note: bool = False,
    max_pixels: int = MAX_PIXELS,
    at_least: int | None = None,
) -> tf.Tensor:
    """Decodes one image to RGB pixels. Gray is repeated, CMYK is converted, and of a GIF the first frame is decoded.

    Args:
        data: scalar string, the bytes of a JPEG, PNG, GIF, BMP, or still WebP file.
        accurate: True decodes JPEG with the accurate inverse DCT, as Pillow and PyTorch do; False with
            TensorFlow's default, as big_vision does.
        exif: whether to turn the picture upright as its file says, as `PIL.ImageOps.exif_transpose` does.
        alpha: "white" composes a transparent picture on white; "drop" shows the colors under its transparency.
        note: whether to log once that "drop" met a transparent picture. Use it in input pipelines; a SavedModel cannot
            hold it.
        max_pixels: largest height * width that is decoded. For a GIF, the canvas and all frames count together.
        at_least: decode a JPEG at a half, a quarter, or an eighth of its size if its shorter side stays at least this
            long, in pixels. None decodes at full size.

    Returns:
        uint8 (height, width, 3).

    Raises:
        tf.errors.InvalidArgumentError: bytes that cannot be decoded, or a header that announces more than
            `max_pixels`.
    """

    def jpeg() -> tf.Tensor:
        pixels = tf.ensure_shape(_decode_jpeg(data, max_pixels, accurate, at_least), _RGB)
        return upright(pixels, jpeg_orientation(data)) if exif else pixels

    other = rarely(_decode_other, data, max_pixels=max_pixels, exif=exif, alpha=alpha, note=note)
    return tf.cond(starts_with(data, b"\xff\xd8\xff"), jpeg, other)


def picture_traits(data: tf.Tensor) -> dict[str, tf.Tensor]:
    """Finds what is special about an image that can be decoded, for reports.

    Args:
        data: scalar string, the file's bytes.

    Returns:
        bool scalars: "turned", the file asks for a rotation or a mirror image; "transparent", a pixel is not opaque;
            "cmyk", the colors are stored as CMYK.
    """

    def any_clear(may_be_transparent: _Reader, transparent: _Reader) -> tf.Tensor:
        return tf.cond(
            may_be_transparent(data), lambda: tf.reduce_any(transparent(data)[..., 3] < 255), lambda: tf.constant(False)
        )

    def traits(turned: object = False, transparent: object = False, cmyk: object = False) -> list[tf.Tensor]:
        return [tf.convert_to_tensor(each) for each in (turned, transparent, cmyk)]

    by_format = {
        "jpeg": lambda: traits(turned=jpeg_orientation(data) > 1, cmyk=tf.io.extract_jpeg_shape(data)[2] == 4),
        "png": lambda: traits(png_orientation(data) > 1, any_clear(png_may_be_transparent, _decode_transparent_png)),
        "gif": lambda: traits(transparent=tf.reduce_any(decode_gif(data)[..., 3] < 255)),
        "bmp": lambda: traits(transparent=any_clear(bmp_may_be_transparent, _decode_transparent_bmp)),
        "webp": lambda: traits(
            webp_orientation(data) > 1,
            any_clear(webp_may_be_transparent, functools.partial(_decode_webp, channels=4)),
        ),
    }
    found = tf.switch_case(image_format(data), [by_format.get(name, traits) for name in FORMATS])
    return dict(zip(("turned", "transparent", "cmyk"), found, strict=True))
