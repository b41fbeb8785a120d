"""The orientation tag of a JPEG, read and applied inside the graph.

Source: EXIF 2.3, section 4.6 (tag 0x0112); Pillow `ImageOps.exif_transpose`.
"""

import tensorflow as tf

from siglip_tf.data.images.header import rarely, read_bytes, starts_with

_ORIENTATION_TAG = 0x0112
_MAX_SEGMENTS = 64
# A segment holds less than 64 KiB; EXIF comes first, or after a few short ones.
_HEAD_BYTES = 1 << 16


def _exif_segment(data: tf.Tensor) -> tf.Tensor:
    """int32 offset of the TIFF header in the first EXIF segment, or 0; walks the segments before the image's own."""

    def is_application_segment(offset: tf.Tensor, found: tf.Tensor, header: tf.Tensor) -> tf.Tensor:
        del offset
        return (found == 0) & (header[0] == 0xFF) & (((header[1] & 0xF0) == 0xE0) | (header[1] == 0xFE))

    def step(offset: tf.Tensor, found: tf.Tensor, header: tf.Tensor) -> tuple[tf.Tensor, ...]:
        is_exif = (header[1] == 0xE1) & (tf.strings.substr(data, offset + 4, 6) == b"Exif\x00\x00")
        after = tf.minimum(offset + 2 + header[2] * 256 + header[3], tf.strings.length(data))
        return after, tf.where(is_exif, offset + 10, found), read_bytes(data, after, 4)

    start = tf.constant(2)
    _, found, _ = tf.while_loop(
        is_application_segment,
        step,
        (start, tf.constant(0), read_bytes(data, start, 4)),
        maximum_iterations=_MAX_SEGMENTS,
    )
    return found


def _orientation_tag(data: tf.Tensor, tiff: tf.Tensor) -> tf.Tensor:
    header = read_bytes(data, tiff, 8)
    little = header[0] == ord("I")

    def number(values: tf.Tensor) -> tf.Tensor:
        """Unsigned integers from the last axis, in the file's byte order."""
        size = values.shape[-1]
        powers = tf.constant([256**i for i in range(size)], tf.int64)
        total = tf.reduce_sum(tf.cast(values, tf.int64) * tf.where(little, powers, powers[::-1]), -1)
        return tf.cast(tf.minimum(total, 1 << 30), tf.int32)

    directory = tiff + number(header[4:8])
    count = number(read_bytes(data, directory, 2))
    entries = tf.strings.substr(data, tf.minimum(directory + 2, tf.strings.length(data)), count * 12)
    count = tf.strings.length(entries) // 12
    entries = tf.io.decode_raw(tf.strings.substr(entries, 0, count * 12), tf.uint8)
    entries = tf.cast(tf.reshape(entries, [count, 12]), tf.int32)
    is_orientation = number(entries[:, :2]) == _ORIENTATION_TAG
    value = tf.reduce_sum(tf.where(is_orientation, number(entries[:, 8:10]), 0))
    return tf.where((value >= 1) & (value <= 8), value, 1)


def _orientation(data: tf.Tensor) -> tf.Tensor:
    tiff = _exif_segment(data)
    return tf.cond(tiff > 0, lambda: _orientation_tag(data, tiff), lambda: tf.constant(1))


def _searched_orientation(data: tf.Tensor) -> tf.Tensor:
    # Looking for the segment's name is much cheaper than walking the segments.
    head = tf.strings.substr(data, 0, _HEAD_BYTES)
    without = tf.strings.regex_replace(head, r"Exif\x00\x00", "", replace_global=False)
    has_name = tf.strings.length(without) < tf.strings.length(head)
    return tf.cond(has_name, rarely(_orientation, data), lambda: tf.constant(1))


def exif_orientation(data: tf.Tensor) -> tf.Tensor:
    """Orientation of a JPEG.

    Args:
        data: scalar string, the file's bytes.

    Returns:
        int32 scalar 1..8, 1 (upright) where the file does not say.
    """
    # Where the tables follow the JFIF header there is none, as in most files that a program wrote again.
    plain = starts_with(data, b"\xff\xe0\x00\x10", 2) & starts_with(data, b"\xff\xdb", 20)
    return tf.cond(plain, lambda: tf.constant(1), rarely(_searched_orientation, data))


def _turn(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    swapped = tf.cond(orientation >= 5, lambda: tf.transpose(image, [1, 0, 2]), lambda: image)
    # 2, 3, 4 mirror an upright image; 6, 7, 8 a transposed one.
    left_right = tf.reduce_any(orientation == [2, 3, 6, 7])
    up_down = tf.reduce_any(orientation == [3, 4, 7, 8])
    swapped = tf.cond(left_right, lambda: tf.reverse(swapped, [1]), lambda: swapped)
    return tf.cond(up_down, lambda: tf.reverse(swapped, [0]), lambda: swapped)


def upright(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """The image turned and mirrored as its orientation asks.

    Args:
        image: (height, width, channels).
        orientation: int32 scalar 1..8.

    Returns:
        The image, height and width swapped where orientation is 5 or more.
    """
    turned = tf.cond(orientation > 1, rarely(_turn, image, orientation), lambda: image)
    return tf.ensure_shape(turned, [None, None, image.shape[2]])
