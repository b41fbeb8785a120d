"""The first frame of a GIF on its canvas, as Pillow shows it.

TensorFlow's decoder uses the largest frame as the canvas, moves frames that do not fit, and paints transparent pixels
black. So this file reduces the GIF to one frame in the corner before decoding, and makes the canvas itself.

Source: GIF89a; Pillow `GifImagePlugin.py`.
"""

from typing import NamedTuple

import tensorflow as tf

from siglip_tf.data.images.graph import assert_that, little_endian, part, read_bytes

_WHITE = b"\xff" * 768
# The flags of a screen with a color table of 2, 4, ... 256 colors.
_SCREEN_FLAGS = [bytes([0xF0 | power]) for power in range(8)]


class GifLayout(NamedTuple):
    """The layout of a GIF: int32 offsets in bytes, and int64 sizes in pixels. All are scalars except `canvas`.

    Attributes:
        canvas: int64 (2,), height and width of the canvas of the first frame.
        pixels: number of pixels of the canvas and of all frames together.
        frame: offset of the first frame's descriptor, or 0 if there is none.
        end: offset after the first frame's data.
        transparent: int32 index of the transparent color, or -1 if there is none.
    """

    canvas: tf.Tensor
    pixels: tf.Tensor
    frame: tf.Tensor
    end: tf.Tensor
    transparent: tf.Tensor


def _table_bytes(flags: tf.Tensor) -> tf.Tensor:
    """Returns the size in bytes, an int32 scalar, of the color table that a flag byte announces."""
    return tf.where(flags >= 128, 3 * tf.bitwise.left_shift(2, flags % 8), 0)


def gif_layout(data: tf.Tensor) -> GifLayout:
    """Walks a GIF block by block.

    Args:
        data: scalar string, the file's bytes.
    """
    length = tf.strings.length(data)

    def inside(offset: tf.Tensor, *_: tf.Tensor) -> tf.Tensor:
        return offset < length

    def step(
        offset: tf.Tensor, in_blocks: tf.Tensor, pixels: tf.Tensor, frame: tf.Tensor, end: tf.Tensor, clear: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        block = read_bytes(data, offset, 10)
        is_frame = ~in_blocks & (block[0] == 0x2C)
        is_extension = ~in_blocks & (block[0] == 0x21)
        # A graphic control extension before the first frame may name a transparent color.
        is_control = is_extension & (block[1] == 0xF9) & (frame == 0)
        clear = tf.where(is_control, tf.where(block[3] % 2 == 1, block[6], -1), clear)
        pixels += tf.where(is_frame, tf.maximum(little_endian(block[5:7]) * little_endian(block[7:9]), 1), 0)
        frame = tf.where(is_frame & (frame == 0), offset, frame)
        skip = tf.where(
            in_blocks,
            block[0] + 1,
            # One byte and the data blocks follow a frame's descriptor and colors. Anything else ends the file.
            tf.where(is_frame, 11 + _table_bytes(block[9]), tf.where(is_extension, 2, length - offset)),
        )
        ends = in_blocks & (block[0] == 0)
        end = tf.where(ends & (frame > 0) & (end == 0), offset + 1, end)
        return offset + skip, tf.where(in_blocks, ~ends, is_frame | is_extension), pixels, frame, end, clear

    start = 13 + _table_bytes(read_bytes(data, 10, 1)[0])
    zero = tf.constant(0)
    _, _, pixels, frame, end, transparent = tf.while_loop(
        inside, step, (start, tf.constant(False), tf.constant(0, tf.int64), zero, zero, tf.constant(-1))
    )
    screen = read_bytes(data, 6, 4)
    placed = read_bytes(data, frame + 1, 8)
    canvas = tf.stack(
        [
            tf.maximum(little_endian(screen[2:]), little_endian(placed[2:4]) + little_endian(placed[6:])),
            tf.maximum(little_endian(screen[:2]), little_endian(placed[:2]) + little_endian(placed[4:6])),
        ]
    )
    canvas = tf.where(frame > 0, canvas, 0)
    return GifLayout(canvas, pixels + canvas[0] * canvas[1], frame, tf.where(end > 0, end, length), transparent)


def gif_announced(data: tf.Tensor) -> tf.Tensor:
    """Returns int64 (3,): height and width of the canvas, and how many pixels decoding may hold in memory."""
    layout = gif_layout(data)
    return tf.stack([layout.canvas[0], layout.canvas[1], layout.pixels])


def decode_gif(data: tf.Tensor) -> tf.Tensor:
    """Decodes the first frame on its canvas, with alpha.

    Args:
        data: scalar string, the bytes of a GIF whose size has been checked (`header.checked`).

    Returns:
        uint8 (height, width, 4). Transparent pixels keep their color and have alpha 0; the others have alpha 255.

    Raises:
        tf.errors.InvalidArgumentError: bytes that cannot be decoded.
    """
    layout = gif_layout(data)
    with tf.control_dependencies([assert_that(layout.frame > 0, ["A GIF without a picture."])]):
        frame = tf.identity(layout.frame)
    local = _table_bytes(read_bytes(data, frame + 9, 1)[0])
    common = _table_bytes(read_bytes(data, 10, 1)[0])
    with tf.control_dependencies([assert_that(local + common > 0, ["A GIF without colors."])]):
        local = tf.identity(local)
    table, table_bytes = tf.where(local > 0, frame + 10, 13), tf.where(local > 0, local, common)
    interlaced = read_bytes(data, frame + 9, 1)[0] // 64 % 2 == 1
    descriptor = tf.strings.join([b"\x2c\0\0\0\0", part(data, frame + 5, 4), tf.where(interlaced, b"\x40", b"\0")])
    flags = tf.gather(_SCREEN_FLAGS, tf.reduce_sum(tf.cast(table_bytes > [6 << power for power in range(7)], tf.int32)))
    content = part(data, frame + 10 + local, tf.maximum(layout.end - frame - 10 - local, 0))
    screen = part(data, 0, 10)

    def decode(colors: tf.Tensor) -> tf.Tensor:
        # The reduced GIF has one frame in the corner, its colors in the global table, and no extensions.
        alone = tf.strings.join([screen, flags, b"\0\0", colors, descriptor, content, ";"])
        return tf.ensure_shape(tf.io.decode_gif(alone)[0], [None, None, 3])

    colors = part(data, table, table_bytes)
    pixels = decode(colors)

    def opacity() -> tf.Tensor:
        before = 3 * tf.minimum(layout.transparent, table_bytes // 3 - 1)
        mask = tf.strings.join(
            [
                tf.strings.substr(_WHITE, 0, before),
                b"\0\0\0",
                tf.strings.substr(_WHITE, 0, table_bytes - before - 3),
            ]
        )
        return decode(mask)[..., :1]

    clear = (layout.transparent >= 0) & (layout.transparent < table_bytes // 3)
    alpha = tf.cond(clear, opacity, lambda: tf.fill([*tf.unstack(tf.shape(pixels)[:2]), 1], tf.constant(255, tf.uint8)))
    # Pillow fills the rest of the canvas with the transparent color, or with the first color if there is none.
    rest = read_bytes(data, table + 3 * tf.where(clear, layout.transparent, 0), 3)
    rest = tf.cast(tf.concat([rest, [tf.where(clear, 0, 255)]], 0), tf.uint8)
    return _on_canvas(tf.concat([pixels, alpha], 2), rest, layout.canvas, read_bytes(data, frame + 1, 4))


def _on_canvas(pixels: tf.Tensor, rest: tf.Tensor, canvas: tf.Tensor, corner: tf.Tensor) -> tf.Tensor:
    left, top = tf.cast(little_endian(corner[:2]), tf.int32), tf.cast(little_endian(corner[2:]), tf.int32)
    height, width = tf.unstack(tf.shape(pixels)[:2])
    canvas = tf.cast(canvas, tf.int32)
    padding = [[top, canvas[0] - top - height], [left, canvas[1] - left - width], [0, 0]]
    inside = tf.pad(tf.ones([height, width, 1], tf.bool), padding)
    return tf.where(inside, tf.pad(pixels, padding), rest)
