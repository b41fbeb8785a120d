"""Inputs that a stranger might send, without end and from a seed."""

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
import tensorflow as tf
from PIL import Image

from tests.example_model import pictures

_STRANGE_TEXTS = (
    b"",
    b"\0",
    b"a\0b",
    b"\xff\xfe\xfd",
    b"caf\xe9",
    b"\xed\xa0\x80 lone surrogate",
    b"\xf4\x90\x80\x80 beyond Unicode",
    "שלום עולם مرحبا بالعالم".encode(),
    "\u202eright to left override\u202c".encode(),
    "👩‍👩‍👧‍👦🏳️‍🌈🇺🇳😀".encode(),
    ("e" + "\u0301" * 500).encode(),
    "\ufeff\u200b\u2060\u00ad".encode(),
    "İ ẞ ﬁ ǆ".encode(),
    b"{}",
    b"{}{}",
    b"%s%n%x $HOME `id` ${jndi:x} <script>",
    "\uff0e\u3002\u3001\uff01\uff1f full width".encode(),
    b"\xc0\x80 overlong",
)


def encoded(side: int = 24) -> list[bytes]:
    """JPEG (colour, grey, progressive), PNG (8 and 16 bits, grey, alpha), BMP, GIF and WebP (lossy, lossless)."""
    image = tf.io.decode_image(pictures(1, size=(side, side))[0])
    grey = tf.image.rgb_to_grayscale(image)
    alpha = tf.concat([image, grey], axis=2)
    deep = tf.cast(image, tf.uint16) * 257
    encodings = [
        tf.io.encode_jpeg(image),
        tf.io.encode_jpeg(grey, format="grayscale"),
        tf.io.encode_jpeg(image, progressive=True),
        tf.io.encode_png(image),
        tf.io.encode_png(grey),
        tf.io.encode_png(alpha),
        tf.io.encode_png(deep),
    ]
    webp = [_webp(image.numpy(), lossless) for lossless in (False, True)]
    return [e.numpy() for e in encodings] + [_bmp(image.numpy()), _gif(), *webp]


def _bmp(image: np.ndarray) -> bytes:
    height, width, _ = image.shape
    rows = b"".join(
        row[:, ::-1].tobytes() + b"\0" * (-width * 3 % 4) for row in image[::-1]
    )  # bottom up, blue first, rows padded to four bytes
    header = struct.pack(
        "<2sIHHIIiiHHIIiiII", b"BM", 54 + len(rows), 0, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0
    )
    return header + rows


def _gif() -> bytes:
    """Two by one pixels, one frame."""
    screen = b"GIF89a\x02\x00\x01\x00\x80\x00\x00" + b"\x00\x00\x00\xff\xff\xff"
    return screen + b",\x00\x00\x00\x00\x02\x00\x01\x00\x00" + b"\x02\x02D\n\x00;"


def _webp(image: np.ndarray, lossless: bool) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "WEBP", lossless=lossless)
    return file.getvalue()


def _png(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG that announces any size."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def huge() -> list[bytes]:
    """Small files that announce very large pictures."""
    jpeg = bytearray(encoded()[0])
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", 65_500, 65_500)
    gif = bytearray(_gif())
    gif[6:10] = gif[24:28] = struct.pack("<HH", 65_535, 65_535)
    small_screen = bytearray(_gif())
    small_screen[24:28] = struct.pack("<HH", 65_535, 65_535)  # only the frame is large
    bmp = bytearray(encoded()[7])
    bmp[18:26] = struct.pack("<ii", 2**31 - 1, 2**31 - 1)
    upside_down = bytearray(encoded()[7])
    upside_down[18:26] = struct.pack("<ii", 100_000, -100_000)
    most_negative = bytearray(encoded()[7])
    most_negative[18:26] = struct.pack("<ii", -(2**31), -(2**31))
    webp = bytearray(encoded()[9])
    webp[26:30] = struct.pack("<HH", 16_383, 16_383)
    zeros = zlib.compress(bytes(20_000_000))
    return [
        bytes(jpeg),
        bytes(gif),
        bytes(small_screen),
        bytes(bmp),
        bytes(upside_down),
        bytes(most_negative),
        _png(2**31 - 1, 2**31 - 1),
        _png(100_000, 100_000, zeros),
        _png(65_535, 1, bytes(65_535 * 3 + 1)),
        _png(0, 0),
        _png(1, 100_000_000),
        bytes(webp),
    ]


def images(seed: int) -> Iterator[bytes]:
    """Random bytes, cut, flipped, spliced and huge files, and sound ones between them."""
    rng = np.random.default_rng(seed)
    sound, large = encoded(), huge()
    starts = [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"RIFF\x10\0\0\0WEBPVP8 ", b""]
    while True:
        kind = rng.integers(7)
        picture = sound[rng.integers(len(sound))]
        if kind == 0:
            yield picture
        elif kind == 1:
            yield starts[rng.integers(len(starts))] + rng.bytes(int(rng.integers(0, 300)))
        elif kind == 2:
            yield picture[: rng.integers(0, len(picture))]
        elif kind == 3:
            changed = bytearray(picture)
            for position in rng.integers(0, len(changed), rng.integers(1, 12)):
                changed[position] = rng.integers(256)
            yield bytes(changed)
        elif kind == 4:
            changed = bytearray(picture)
            # The header decides what is allocated.
            for position in rng.integers(0, min(40, len(changed)), 3):
                changed[position] = rng.choice([0, 1, 127, 128, 255])
            yield bytes(changed)
        elif kind == 5:
            other = sound[rng.integers(len(sound))]
            yield picture[: rng.integers(len(picture))] + other[rng.integers(len(other)) :]
        else:
            yield large[rng.integers(len(large))]


def texts(seed: int) -> Iterator[bytes]:
    """Random bytes and code points, strange sequences, and now and then a megabyte."""
    rng = np.random.default_rng(seed)
    while True:
        kind = rng.integers(6)
        if kind == 0:
            yield rng.bytes(int(rng.integers(0, 200)))
        elif kind == 1:
            points = rng.integers(1, 0x10FFFF, rng.integers(1, 60))
            yield "".join(chr(p) for p in points if not 0xD800 <= p < 0xE000).encode()
        elif kind == 2 and rng.random() < 0.01:
            yield (rng.bytes(8) + b"ab {} ") * 70_000
        else:
            parts = rng.integers(0, len(_STRANGE_TEXTS), rng.integers(1, 4))
            yield b" ".join(_STRANGE_TEXTS[i] for i in parts)
