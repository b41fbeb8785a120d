"""Orientation, transparency, GIF canvases and CMYK of everyday files, against Pillow."""

import io
import logging
import struct

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps, PngImagePlugin

from siglip_tf.data import ImagePreprocessing
from siglip_tf.data.images import transparency
from siglip_tf.data.images.decoding import decode_image, picture_traits
from siglip_tf.data.images.transparency import on_white
from tests.data.pictures import encode, photo


@pytest.fixture(scope="module")
def decode():
    """Decoders in the graph, by what they do with alpha."""
    spec = [tf.TensorSpec([], tf.string)]
    return {
        alpha: tf.function(
            lambda data, alpha=alpha: decode_image(data, accurate=True, exif=True, alpha=alpha, note=alpha == "drop"),
            input_signature=spec,
            autograph=False,
        )
        for alpha in ("white", "drop")
    }


def pillow(data: bytes, alpha: str = "drop") -> np.ndarray:
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    if image.has_transparency_data:
        image = image.convert("RGBA")
    if alpha == "white" and image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("RGB")).astype(int)


def check(decode, data: bytes, tolerance: int, name: str, alphas=("drop", "white")) -> None:
    for alpha in alphas:
        found, expected = decode[alpha](data).numpy().astype(int), pillow(data, alpha)
        assert found.shape == expected.shape, (name, alpha, found.shape, expected.shape)
        assert np.abs(found - expected).max() <= tolerance, (name, alpha, np.abs(found - expected).max())


def tiff(orientation: int, order: str = "<", kind: int = 3, before: int = 0) -> bytes:
    """A TIFF structure whose orientation is a BYTE (1), SHORT (3) or LONG (4), after other entries."""
    magic = b"II*\0" if order == "<" else b"MM\0*"
    value = struct.pack(order + {1: "B3x", 3: "H2x", 4: "I"}[kind], orientation)
    entries = [struct.pack(order + "HHII", 0x0100 + i, 4, 1, 7) for i in range(before)]
    entries.append(struct.pack(order + "HHI", 0x0112, kind, 1) + value)
    return magic + struct.pack(order + "IH", 8, len(entries)) + b"".join(entries) + b"\0\0\0\0"


def segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def with_segment(data: bytes, added: bytes, before: tuple[int, ...]) -> bytes:
    """A JPEG with a segment before the first one of these markers."""
    at = 2
    while data[at + 1] not in before:
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return data[:at] + added + data[at:]


def without_segment(data: bytes, marker: int) -> bytes:
    at = 2
    while data[at + 1] != marker:
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return data[:at] + data[at + 2 + int.from_bytes(data[at + 2 : at + 4], "big") :]


def test_orientation_of_jpeg_wherever_it_stands(decode):
    picture = photo(40, 56)
    plain = encode(picture, "JPEG", quality=95)
    profile = encode(picture, "JPEG", quality=95, icc_profile=bytes(range(256)) * 800)
    assert len(profile) > 200_000
    exif = segment(0xE1, b"Exif\0\0" + tiff(6))
    table, frame, scan = (0xDB,), (0xC0, 0xC2), (0xDA,)
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="%d"/></x:xmpmeta>'
    cases = {
        "first": with_segment(plain, exif, (0xE0,)),
        "after JFIF": with_segment(plain, exif, table),
        "behind a large profile": with_segment(profile, exif, table),
        "behind a large profile, and a comment": with_segment(profile, segment(0xFE, b"a" * 60_000) + exif, table),
        "before the frame": with_segment(plain, exif, frame),
        "before the scan": with_segment(encode(picture, "JPEG", icc_profile=b"x" * 100), exif, scan),
        "fill bytes": with_segment(plain, b"\xff\xff" + exif, table),
        "name in a comment": with_segment(plain, segment(0xFE, b"Exif\0\0 nothing") + exif, table),
        "name in a comment alone": with_segment(plain, segment(0xFE, b"Exif\0\0 nothing"), table),
        "no tag": with_segment(plain, segment(0xE1, b"Exif\0\0" + tiff(6)[:8] + b"\0\0\0\0\0\0"), table),
        "progressive": with_segment(encode(picture, "JPEG", progressive=True), exif, table),
        "not a number of the standard": with_segment(plain, segment(0xE1, b"Exif\0\0" + tiff(9)), table),
        "gray": with_segment(encode(picture.convert("L"), "JPEG"), exif, table),
        "XMP": encode(picture, "JPEG", xmp=xmp % 8),
        "XMP and EXIF": with_segment(encode(picture, "JPEG", xmp=xmp % 8), exif, (0xE0,)),
    }
    for orientation in range(1, 9):
        cases[f"big-endian {orientation}"] = with_segment(
            plain, segment(0xE1, b"Exif\0\0" + tiff(orientation, ">", before=3)), table
        )
    for kind in (1, 4):
        for order in "<>":
            entry = segment(0xE1, b"Exif\0\0" + tiff(6, order, kind))
            cases[f"type {kind} {order}"] = with_segment(plain, entry, table)
    for name, data in cases.items():
        check(decode, data, 2, name, ("drop",))
    assert decode["drop"](cases["behind a large profile"]).shape == (56, 40, 3)


@pytest.mark.slow
def test_orientation_of_png_and_webp(decode):
    picture = photo(40, 56)
    exif = Image.Exif()
    exif[0x0112] = 6
    png = encode(picture, "PNG", exif=exif)
    at = png.index(b"eXIf") - 4
    chunk = png[at : at + 12 + int.from_bytes(png[at : at + 4], "big")]
    late = png.replace(chunk, b"")
    late = late[:-12] + chunk + late[-12:]
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "eXIf and EXIF are names")
    packet = PngImagePlugin.PngInfo()
    packet.add_itxt("XML:com.adobe.xmp", "<rdf><tiff:Orientation>3</tiff:Orientation></rdf>")
    transparent = picture.convert("RGBA")
    transparent.putalpha(photo(40, 56, 1).convert("L"))
    cases = {
        "PNG": (png, 0),
        "PNG, after the picture": (late, 0),
        "PNG, transparent": (encode(transparent, "PNG", exif=exif), 0),
        "PNG, a text that names it": (encode(picture, "PNG", pnginfo=text), 0),
        "PNG, XMP": (encode(picture, "PNG", pnginfo=packet), 0),
        "WebP": (encode(picture, "WEBP", exif=exif, quality=90), 2),
        "WebP, lossless": (encode(picture, "WEBP", exif=exif, lossless=True), 0),
        "WebP, profile": (encode(picture, "WEBP", exif=exif, lossless=True, icc_profile=b"x" * 70_001), 0),
        "WebP, transparent": (encode(transparent, "WEBP", exif=exif, lossless=True, exact=True), 0),
    }
    for name, (data, tolerance) in cases.items():
        check(decode, data, tolerance, name)
    assert decode["drop"](late).shape == decode["drop"](cases["WebP, profile"][0]).shape == (56, 40, 3)


def _bmp_with_alpha(pixels: np.ndarray) -> bytes:
    """A BMP of 32 bits with a mask of alpha, from RGBA."""
    height, width, _ = pixels.shape
    rows = pixels[::-1, :, [2, 1, 0, 3]].tobytes()
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    header = struct.pack("<IiiHHIIiiII", 108, width, height, 1, 32, 3, len(rows), 0, 0, 0, 0) + masks
    header = header.ljust(108, b"\0")
    return b"BM" + struct.pack("<IHHI", 14 + 108 + len(rows), 0, 0, 14 + 108) + header + rows


def test_transparent_pictures(decode):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (17, 23, 4), np.uint8)
    noise[:4, :, 3], noise[4:8, :, 3] = 0, 255
    rgba = Image.fromarray(noise)
    palette = Image.fromarray(noise[..., :3]).quantize(16)
    cases = {
        "RGBA": encode(rgba, "PNG"),
        "LA": encode(rgba.convert("LA"), "PNG"),
        "palette, one color": encode(palette, "PNG", transparency=3),
        "palette, degrees": encode(palette, "PNG", transparency=bytes(range(0, 256, 16))),
        "palette without": encode(palette, "PNG"),
        "RGB, one color": encode(Image.fromarray(noise[..., :3]), "PNG", transparency=tuple(map(int, noise[0, 0, :3]))),
        "gray, one shade": encode(Image.fromarray(noise[..., 0]), "PNG", transparency=int(noise[0, 0, 0])),
        "opaque RGBA": encode(Image.fromarray(noise | np.array([0, 0, 0, 255], np.uint8)), "PNG"),
        "WebP lossless": encode(rgba, "WEBP", lossless=True, exact=True),
        "WebP lossy": encode(rgba, "WEBP", quality=80),
        "BMP": _bmp_with_alpha(noise),
        "GIF": encode(palette, "GIF", transparency=5),
    }
    for name, data in cases.items():
        check(decode, data, 1 if name == "WebP lossy" else 0, name)
    every = np.stack(np.meshgrid(np.arange(256), np.arange(256)), -1).astype(np.uint8)[..., [0, 0, 0, 1]]
    expected = Image.alpha_composite(Image.new("RGBA", (256, 256), "white"), Image.fromarray(every)).convert("RGB")
    np.testing.assert_array_equal(on_white(every), expected)


def test_traits_that_reports_count():
    exif = Image.Exif()
    exif[0x0112] = 8
    opaque, clear = (Image.fromarray(np.full((5, 6, 4), alpha, np.uint8)) for alpha in (255, 9))
    cases = [
        (encode(photo(9, 9), "JPEG"), set()),
        (encode(photo(9, 9), "JPEG", exif=exif), {"turned"}),
        (encode(photo(9, 9).convert("CMYK"), "JPEG"), {"cmyk"}),
        (encode(opaque, "PNG"), set()),
        (encode(clear, "PNG", exif=exif), {"turned", "transparent"}),
        (encode(clear, "WEBP"), {"transparent"}),
        (encode(opaque, "WEBP", exif=exif), {"turned"}),
        (encode(photo(40, 40).quantize(9), "GIF", transparency=1), {"transparent"}),
        (encode(photo(9, 9), "BMP"), set()),
    ]
    traits = tf.function(picture_traits, input_signature=[tf.TensorSpec([], tf.string)], autograph=False)
    for number, (data, expected) in enumerate(cases):
        assert {name for name, found in traits(data).items() if found} == expected, number


def test_dropped_alpha_is_said_once(decode, caplog):
    transparent = encode(Image.fromarray(np.full((4, 4, 4), 90, np.uint8)), "PNG")
    opaque = encode(Image.fromarray(np.full((4, 4, 4), 255, np.uint8)), "PNG")
    transparency._say_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        decode["drop"](opaque)
        decode["white"](transparent)
        assert not caplog.records
        decode["drop"](transparent)
        decode["drop"](transparent)
    assert len(caplog.records) == 1 and 'alpha="white"' in caplog.records[0].message
    # What a SavedModel holds leaves the graph nowhere.
    plain = tf.function(ImagePreprocessing(4).pixels, input_signature=[tf.TensorSpec([], tf.string)])
    graph = plain.get_concrete_function().graph.as_graph_def()
    assert "PyFunc" not in {node.op for function in graph.library.function for node in function.node_def}


def test_alpha_travels_in_the_config():
    assert ImagePreprocessing.from_config({"size": 4, "method": "big_vision"}).alpha == "drop"
    assert ImagePreprocessing.from_config(ImagePreprocessing(4, alpha="white").to_config()).alpha == "white"
    with pytest.raises(ValueError, match="alpha must be one of.*Received: 'black'"):
        ImagePreprocessing(4, alpha="black")


def gif(screen: tuple[int, int], corner: tuple[int, int], picture: Image.Image, **options) -> bytes:
    """A GIF whose first frame stands somewhere on a larger screen."""
    data = bytearray(encode(picture, "GIF", **options))
    data[6:10] = struct.pack("<HH", *screen)
    at = 13 + 3 * 2 ** (data[10] % 8 + 1)
    while data[at] == 0x21:
        at += 2
        while data[at]:
            at += data[at] + 1
        at += 1
    assert data[at] == 0x2C
    data[at + 1 : at + 5] = struct.pack("<HH", *corner)
    return bytes(data)


def test_gif_frames_that_do_not_fill_the_canvas(decode):
    picture, second = (photo(21, 30, seed).quantize(32) for seed in (0, 1))
    large = photo(50, 60).quantize(200)
    cases = {
        "inside": gif((60, 50), (7, 9), picture),
        "inside, transparent": gif((60, 50), (7, 9), picture, transparency=4),
        "interlaced": gif((60, 50), (30, 29), picture, interlace=1),
        "beyond the screen": gif((20, 20), (7, 9), picture),
        "filled": gif((30, 21), (0, 0), picture),
        "animated": gif((40, 30), (3, 2), picture, save_all=True, append_images=[second, large.crop((0, 0, 30, 21))]),
        "animated, filled": encode(picture, "GIF", save_all=True, append_images=[second]),
        "comment": gif((60, 50), (7, 9), picture, comment=b"text " * 100),
        "two colors": gif((60, 50), (7, 9), picture.convert("1")),
    }
    for name, data in cases.items():
        check(decode, data, 0, name)
    for broken in (b"GIF89a", cases["inside"][:40], b"GIF89a\1\0\1\0\0\0\0;"):
        with pytest.raises(tf.errors.InvalidArgumentError):
            decode["white"](broken)


def test_cmyk_with_and_without_adobes_marker(decode):
    inks = Image.fromarray(np.asarray(photo(40, 56, 3).convert("CMYK")) // 2 + 40, "CMYK")
    marked = encode(inks, "JPEG", quality=95)
    at = marked.index(b"Adobe") + 11
    ycck = marked[:at] + b"\2" + marked[at + 1 :]
    cases = {"marked": marked, "unmarked": without_segment(marked, 0xEE), "YCCK": ycck}
    for name, data in cases.items():
        assert Image.open(io.BytesIO(data)).mode == "CMYK"
        check(decode, data, 3, name, ("drop",))
    sideways = with_segment(cases["unmarked"], segment(0xE1, b"Exif\0\0" + tiff(8)), (0xDB,))
    check(decode, sideways, 3, "turned", ("white",))
