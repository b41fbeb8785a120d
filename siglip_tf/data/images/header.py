"""How large an encoded image says it is, read from its header before a pixel of it is decoded.

A file of a few kilobytes can announce gigabytes of pixels; this is what stops it.

Source: the formats' specifications: JPEG (ITU T.81), PNG (IHDR), GIF89a, BMP (BITMAPINFOHEADER), WebP (RFC 9649).
"""

import functools
from collections.abc import Callable, Hashable
from typing import Any

import tensorflow as tf

# What Pillow warns at: three bytes a pixel make a quarter of a gibibyte.
MAX_PIXELS = 1024**3 // 4 // 3

FORMATS = ("jpeg", "png", "gif", "bmp", "webp", "unknown")


@functools.cache
def _apart(function: Callable[..., tf.Tensor], signature: tuple[tf.TensorSpec, ...], options: tuple) -> Any:
    """A graph of its own, traced once in a process however many pipelines call it."""
    return tf.function(
        functools.partial(function, **dict(options)),
        input_signature=signature,
        autograph=False,
        experimental_attributes={"_noinline": True},
    )


def rarely(function: Callable[..., tf.Tensor], *inputs: tf.Tensor, **options: Hashable) -> Callable[[], tf.Tensor]:
    """A branch for `tf.cond` that costs nothing where it is not taken.

    Branches are inlined otherwise, and each op of a branch not taken is still scheduled, as a dead one. Eager code
    calls the branch as it is: a new trace for every image would cost time and memory without end.

    Args:
        function: a function of a module, so that it is the same one in every call.
        inputs: its tensors.
        options: its keyword arguments.
    """
    if tf.executing_eagerly():
        return lambda: function(*inputs, **options)
    signature = tuple(tf.TensorSpec(value.shape, value.dtype) for value in inputs)
    return lambda: _apart(function, signature, tuple(sorted(options.items())))(*inputs)


def _assert_that(condition: tf.Tensor, data: list[Any]) -> tf.Operation:
    """`tf.debugging.Assert` without its branch, whose ops cost 3 % of decoding a JPEG."""
    if tf.executing_eagerly():
        return tf.debugging.Assert(condition, data)
    return tf.raw_ops.Assert(condition=condition, data=[tf.convert_to_tensor(each) for each in data], summarize=3)


def read_bytes(data: tf.Tensor, offset: tf.Tensor | int, count: int) -> tf.Tensor:
    """int32 (count,) bytes of the scalar string from `offset`; zeros beyond its end."""
    offset = tf.minimum(offset, tf.strings.length(data))
    return tf.cast(tf.io.decode_raw(tf.strings.substr(data, offset, count), tf.uint8, fixed_length=count), tf.int32)


def starts_with(data: tf.Tensor, text: bytes, offset: int = 0) -> tf.Tensor:
    """bool scalar: whether the scalar string holds `text` at `offset`; False beyond its end."""
    return tf.strings.substr(data, tf.minimum(offset, tf.strings.length(data)), len(text)) == text


def _little_endian(values: tf.Tensor) -> tf.Tensor:
    powers = tf.constant([256**i for i in range(values.shape[0])], tf.int64)
    return tf.reduce_sum(tf.cast(values, tf.int64) * powers)


def image_format(data: tf.Tensor) -> tf.Tensor:
    """int32 scalar, an index of `FORMATS`, from the first bytes of the scalar string."""
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
    return tf.stack([_little_endian(header[7:3:-1]), _little_endian(header[3::-1])])


def _bmp_size(data: tf.Tensor) -> tf.Tensor:
    header = read_bytes(data, 18, 8)
    height = _little_endian(header[4:])
    # A BMP stored top row first has a negative height.
    return tf.stack([tf.where(height >= 1 << 31, (1 << 32) - height, height), _little_endian(header[:4])])


def _webp_size(data: tf.Tensor) -> tf.Tensor:
    header = read_bytes(data, 20, 10)
    lossless, side = _little_endian(header[1:5]), 1 << 14
    return tf.case(
        [
            (
                starts_with(data, b"VP8X", 12),
                lambda: tf.stack([_little_endian(header[7:10]) + 1, _little_endian(header[4:7]) + 1]),
            ),
            (
                starts_with(data, b"VP8L", 12),
                lambda: tf.stack([lossless // side % side + 1, lossless % side + 1]),
            ),
        ],
        default=lambda: tf.stack([_little_endian(header[8:10]) % side, _little_endian(header[6:8]) % side]),
    )


def _gif_frames(data: tf.Tensor) -> tf.Tensor:
    """int64 (3,): largest height, largest width, and the pixels of all frames, all of which the decoder holds.

    Walks the file block by block: frames announce sizes of their own, whatever the screen's is.
    """
    length = tf.strings.length(data)

    def color_table(flags: tf.Tensor) -> tf.Tensor:
        return tf.where(flags >= 128, 3 * tf.bitwise.left_shift(2, flags % 8), 0)

    def inside(offset: tf.Tensor, in_blocks: tf.Tensor, frames: tf.Tensor) -> tf.Tensor:
        del in_blocks, frames
        return offset < length

    def step(offset: tf.Tensor, in_blocks: tf.Tensor, frames: tf.Tensor) -> tuple[tf.Tensor, ...]:
        block = read_bytes(data, offset, 10)
        is_frame = ~in_blocks & (block[0] == 0x2C)
        is_extension = ~in_blocks & (block[0] == 0x21)
        width, height = _little_endian(block[5:7]), _little_endian(block[7:9])
        grown = tf.stack(
            [tf.maximum(frames[0], height), tf.maximum(frames[1], width), frames[2] + tf.maximum(height * width, 1)]
        )
        skip = tf.where(
            in_blocks,
            block[0] + 1,
            # A frame's descriptor and colours are followed by one byte and its blocks; anything else ends the file.
            tf.where(is_frame, 11 + color_table(block[9]), tf.where(is_extension, 2, length - offset)),
        )
        in_blocks = tf.where(in_blocks, block[0] > 0, is_frame | is_extension)
        return offset + skip, in_blocks, tf.where(is_frame, grown, frames)

    start = 13 + color_table(read_bytes(data, 10, 1)[0])
    return tf.while_loop(inside, step, (start, tf.constant(False), tf.zeros([3], tf.int64)))[2]


def _announced(data: tf.Tensor) -> tf.Tensor:
    """int64 (3,): height, width, pixels that decoding makes."""

    def with_pixels(size: tf.Tensor) -> tf.Tensor:
        return tf.stack([size[0], size[1], size[0] * size[1]])

    return tf.switch_case(
        image_format(data),
        [
            lambda: with_pixels(tf.cast(tf.io.extract_jpeg_shape(data), tf.int64)),
            lambda: with_pixels(_png_size(data)),
            lambda: _gif_frames(data),
            lambda: with_pixels(_bmp_size(data)),
            lambda: with_pixels(_webp_size(data)),
            lambda: tf.zeros([3], tf.int64),
        ],
    )


def image_size(data: tf.Tensor) -> tf.Tensor:
    """Height and width of an encoded image from its header alone.

    Args:
        data: scalar string, the bytes of a JPEG, PNG, GIF, BMP or WebP file.

    Returns:
        int64 (2,): height, width in pixels, before any EXIF rotation; zeros for an unknown format.

    Raises:
        tf.errors.InvalidArgumentError: a JPEG without a readable header.
    """
    return _announced(data)[:2]


def refuse_bomb(pixels: tf.Tensor, announced: list[tf.Tensor] | tf.Tensor, max_pixels: int) -> tf.Operation:
    """Asserts that int64 scalar `pixels` are `max_pixels` at most; run it before the decoder."""
    message = f"The image's header announces more than max_pixels = {max_pixels} (height, width):"
    return _assert_that(pixels <= max_pixels, [message, *tf.unstack(announced)])


def checked(data: tf.Tensor, max_pixels: int) -> tf.Tensor:
    """The same scalar string, once its header is known to announce at most `max_pixels`."""
    announced = _announced(data)
    with tf.control_dependencies([refuse_bomb(announced[2], announced[:2], max_pixels)]):
        return tf.identity(data)
