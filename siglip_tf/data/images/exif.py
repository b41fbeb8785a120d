"""The orientation of a picture, read and applied in the graph.

EXIF stores it in a segment of a JPEG, a chunk of a PNG, or a chunk of a WebP. If EXIF does not store it, XMP may.

Source: EXIF 2.3, section 4.6 (tag 0x0112); PNG 3, section 11.3.4.5 (eXIf); RFC 9649 (WebP); Pillow
`ImageOps.exif_transpose`.
"""

import tensorflow as tf

from siglip_tf.data.images.graph import big_endian, contains, little_endian, part, rarely, read_bytes, starts_with

_ORIENTATION_TAG = 0x0112
# More than any real file has. The limit keeps a damaged file from looping for long.
_MAX_SEGMENTS = 4096
_MAX_ENTRIES = 4096
# The part of a JPEG that is searched for the segment's name first. No segment is longer.
_HEAD_BYTES = 1 << 16
_XMP = r'tiff:Orientation(?:="|>)([0-9])'
_EXIF_NAME = b"Exif\x00\x00"


def _walk_jpeg(data: tf.Tensor, named: tf.Tensor) -> tf.Tensor:
    """Returns the int32 offset of the TIFF header in the first EXIF segment of a JPEG, or 0.

    `named` says whether EXIF's name occurs in the first bytes. If it does not, an EXIF segment can only come after
    long application segments, so the walk ends after those.
    """

    def may_follow(offset: tf.Tensor, found: tf.Tensor, header: tf.Tensor) -> tf.Tensor:
        del offset
        application = ((header[1] & 0xF0) == 0xE0) | (header[1] == 0xFE)
        padding = header[1] == 0xFF
        # Image data begins at the scan (0xDA).
        other = named & (header[1] > 0x01) & (header[1] != 0xDA) & (header[1] != 0xD9)
        return (found == 0) & (header[0] == 0xFF) & (application | padding | other)

    def step(offset: tf.Tensor, found: tf.Tensor, header: tf.Tensor) -> tuple[tf.Tensor, ...]:
        is_exif = (header[1] == 0xE1) & starts_with(data, _EXIF_NAME, offset + 4)
        size = tf.where(header[1] == 0xFF, 1, 2 + header[2] * 256 + header[3])
        after = tf.minimum(offset + size, tf.strings.length(data))
        return after, tf.where(is_exif, offset + 10, found), read_bytes(data, after, 4)

    start = tf.constant(2)
    _, found, _ = tf.while_loop(
        may_follow,
        step,
        (start, tf.constant(0), read_bytes(data, start, 4)),
        maximum_iterations=_MAX_SEGMENTS,
    )
    return found


def _orientation_tag(data: tf.Tensor, tiff: tf.Tensor) -> tf.Tensor:
    """Returns the int32 orientation 1..8 in the TIFF structure at an offset, or 0 without such a tag."""
    header = read_bytes(data, tiff, 8)
    little = header[0] == ord("I")
    is_tiff = starts_with(data, b"II*\0", tiff) | starts_with(data, b"MM\0*", tiff)

    def number(values: tf.Tensor) -> tf.Tensor:
        """Reads unsigned integers from the last axis, in the file's byte order."""
        size = values.shape[-1]
        powers = [256**i for i in range(size)]
        powers = tf.where(little, tf.constant(powers, tf.int64), tf.constant(powers[::-1], tf.int64))
        total = tf.reduce_sum(tf.cast(values, tf.int64) * powers, -1)
        return tf.cast(tf.minimum(total, 1 << 30), tf.int32)

    directory = tiff + number(header[4:8])
    count = tf.minimum(number(read_bytes(data, directory, 2)), _MAX_ENTRIES)
    entries = part(data, directory + 2, count * 12)
    count = tf.strings.length(entries) // 12
    entries = tf.io.decode_raw(tf.strings.substr(entries, 0, count * 12), tf.uint8)
    entries = tf.cast(tf.reshape(entries, [count, 12]), tf.int32)
    # A later entry replaces an earlier one.
    numbers = tf.where(number(entries[:, :2]) == _ORIENTATION_TAG, tf.range(count), -1)
    last = tf.reduce_max(tf.concat([numbers, [-1]], 0))
    entry = tf.concat([entries, tf.zeros([1, 12], tf.int32)], 0)[last]
    kind = number(entry[2:4])
    # The standard says an unsigned short. Some programs write a long or a signed number. Other types are ignored.
    short, long = tf.reduce_any(kind == [3, 8]), tf.reduce_any(kind == [4, 9])
    value = tf.where(short, number(entry[8:10]), tf.where(long, number(entry[8:12]), 1))
    value = tf.where((value >= 1) & (value <= 8), value, 1)
    return tf.where(is_tiff & (last >= 0), value, 0)


def _xmp_orientation(text: tf.Tensor) -> tf.Tensor:
    """Returns the int32 orientation 1..8 in the first XMP packet of a scalar string, or 0 without one."""

    def digit() -> tf.Tensor:
        found = tf.strings.regex_replace(text, rf"(?s)\A\C*?{_XMP}\C*\z", r"\1", replace_global=False)
        value = read_bytes(found, 0, 1)[0] - ord("0")
        return tf.where((tf.strings.length(found) == 1) & (value >= 1) & (value <= 8), value, 0)

    return tf.cond(contains(text, "tiff:Orientation"), digit, lambda: tf.constant(0))


def _tag_or_xmp(data: tf.Tensor, tiff: tf.Tensor, xmp: tf.Tensor) -> tf.Tensor:
    # Some programs write the name of a JPEG's segment twice.
    tiff += tf.where(starts_with(data, _EXIF_NAME, tiff), len(_EXIF_NAME), 0)
    tag = tf.cond(tiff > 0, lambda: _orientation_tag(data, tiff), lambda: tf.constant(0))
    value = tf.cond(tag == 0, lambda: _xmp_orientation(xmp), lambda: tag)
    return tf.maximum(value, 1)


def _jpeg_orientation(data: tf.Tensor) -> tf.Tensor:
    # Looking for the segment's name is much cheaper than walking the segments.
    head = tf.strings.substr(data, 0, _HEAD_BYTES)
    named = contains(head, r"Exif\x00\x00")
    tiff = tf.cond(
        named | (tf.strings.length(data) > _HEAD_BYTES), lambda: _walk_jpeg(data, named), lambda: tf.constant(0)
    )
    return _tag_or_xmp(data, tiff, head)


def png_orientation(data: tf.Tensor) -> tf.Tensor:
    """Like `jpeg_orientation`, for a PNG. The chunk may be before or after the image data."""

    def size(offset: tf.Tensor) -> tf.Tensor:
        return tf.cast(tf.minimum(big_endian(read_bytes(data, offset, 4)), 1 << 30), tf.int32)

    def chunks() -> tf.Tensor:
        def more(offset: tf.Tensor, found: tf.Tensor) -> tf.Tensor:
            return (found == 0) & (offset < tf.strings.length(data))

        def step(offset: tf.Tensor, found: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            found = tf.where(starts_with(data, b"eXIf", offset + 4), offset + 8, found)
            return offset + 12 + size(offset), found

        return tf.while_loop(more, step, (tf.constant(8), tf.constant(0)))[1]

    tiff = tf.cond(contains(data, "eXIf"), chunks, lambda: tf.constant(0))
    return _tag_or_xmp(data, tiff, data)


def webp_orientation(data: tf.Tensor) -> tf.Tensor:
    """Like `jpeg_orientation`, for a WebP."""

    def more(offset: tf.Tensor, found: tf.Tensor) -> tf.Tensor:
        return (found == 0) & (offset < tf.strings.length(data))

    def step(offset: tf.Tensor, found: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        found = tf.where(starts_with(data, b"EXIF", offset), offset + 8, found)
        size = tf.cast(tf.minimum(little_endian(read_bytes(data, offset + 4, 4)), 1 << 30), tf.int32)
        return offset + 8 + size + size % 2, found

    tiff = tf.while_loop(more, step, (tf.constant(12), tf.constant(0)), maximum_iterations=_MAX_SEGMENTS)[1]
    flags = tf.where(starts_with(data, b"VP8X", 12), read_bytes(data, 20, 1)[0], 0)
    tiff = tf.where(tf.bitwise.bitwise_and(flags, 0x08) > 0, tiff, 0)
    return tf.cond(
        tf.bitwise.bitwise_and(flags, 0x0C) > 0, lambda: _tag_or_xmp(data, tiff, data), lambda: tf.constant(1)
    )


def jpeg_orientation(data: tf.Tensor) -> tf.Tensor:
    """Reads the orientation of a JPEG.

    Args:
        data: scalar string, the file's bytes.

    Returns:
        int32 scalar 1..8, or 1 (upright) if the file does not say.
    """
    # A file saved by an image library has the tables (DQT) right after the JFIF header, and then the frame (SOF).
    # It has no EXIF segment.
    head = tf.io.decode_raw(tf.strings.substr(data, 0, 160), tf.uint8, fixed_length=160)
    after_tables = tf.reduce_any(
        (tf.gather(head, [89, 154, 158]) == 0xFF) & (tf.gather(head, [90, 155, 159]) // 4 * 4 == 0xC0)
    )
    plain = starts_with(data, b"\xff\xe0\x00\x10", 2) & starts_with(data, b"\xff\xdb", 20) & after_tables
    return tf.cond(plain, lambda: tf.constant(1), rarely(_jpeg_orientation, data))


def _turn(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    swapped = tf.cond(orientation >= 5, lambda: tf.transpose(image, [1, 0, 2]), lambda: image)
    # 2, 3, 4 mirror an upright image; 6, 7, 8 a transposed one.
    left_right = tf.reduce_any(orientation == [2, 3, 6, 7])
    up_down = tf.reduce_any(orientation == [3, 4, 7, 8])
    swapped = tf.cond(left_right, lambda: tf.reverse(swapped, [1]), lambda: swapped)
    return tf.cond(up_down, lambda: tf.reverse(swapped, [0]), lambda: swapped)


def upright(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Turns and mirrors an image as its orientation asks.

    Args:
        image: (height, width, channels).
        orientation: int32 scalar 1..8.

    Returns:
        The upright image. Height and width are swapped if the orientation is 5 or more.
    """
    turned = tf.cond(orientation > 1, rarely(_turn, image, orientation), lambda: image)
    return tf.ensure_shape(turned, [None, None, image.shape[2]])
