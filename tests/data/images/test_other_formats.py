"""Bytes that are no image are named in words, for every format that Pillow can write and this project cannot read."""

import io

from PIL import Image

from siglip_tf.data.images.other_formats import described


def test_words():
    image = Image.new("RGB", (40, 40), (9, 120, 200))
    for name, words in {"TIFF": "a TIFF image", "PDF": "a PDF document", "ICO": "an icon", "AVIF": "an AVIF image",
                        "JPEG2000": "a JPEG 2000 image"}.items():  # fmt: skip
        out = io.BytesIO()
        try:
            image.save(out, name)
        except (KeyError, OSError):  # this build of Pillow cannot write it
            continue
        assert described(out.getvalue()) == words
    cases = {
        b"<!DOCTYPE html><p>404": "an HTML page",
        b'<?xml version="1.0"?>\n<svg xmlns="x"/>': "an SVG drawing",
        b"\0\0\0\x18ftypheic\0\0\0\0": "a HEIC image",
        b"\0\0\0\x18ftypisom\0\0\0\0": "a video or another ISO media file",
        b"Not found": "the text 'Not found'",
        b"Access to this picture is denied": "the text 'Access to this picture i'...",
        bytes(1000): "1,000 zero bytes",
        b"\x01\xff\xfe\x02": "4 bytes of an unknown kind",
        b"version https://git-lfs.github.com/spec/v1": "a pointer of Git LFS, whose file was not fetched",
    }
    assert {data: described(data) for data in cases} == cases
