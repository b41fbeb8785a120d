"""`python -m tools.inspect_data`: figures against those of Pillow and Python, and the page that shows them."""

import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from tests.data.sources.test_tar import write_shard
from tests.example_model import pictures, vocabulary
from tools import inspect_data
from tools.inspect_page import contact_sheet

SIZES = [(40, 48), (33, 90), (64, 64)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twelve sound samples of three sizes, one of one colour, one with two languages, and four broken ones."""
    folder = tmp_path_factory.mktemp("data")
    images = [picture for size in SIZES for picture in pictures(4, size=size)]
    grey = io.BytesIO()
    Image.new("RGB", (40, 40), (90, 90, 90)).save(grey, "PNG")
    images[5] = grey.getvalue()
    samples = [{"__key__": f"{i}", "jpg": image, "txt": f"a photo {'of a cat ' * i}"} for i, image in enumerate(images)]
    samples[4]["txt"] = samples[0]["txt"]
    broken = [{"jpg": b"<html>404 & so on</html>"}, {"txt": " "}, {"txt": b"\xff"}, {"jpg": images[0][:60]}]
    samples += [{**samples[i], **fields, "__key__": f"bad-{i}"} for i, fields in enumerate(broken)]
    write_shard(folder / "0.tar", samples)
    (folder / "tok.model").write_bytes(vocabulary())
    return folder


def test_figures_and_page(folder, tmp_path, capsys):
    out = tmp_path / "deep" / "page.html"
    options = ["--tokenizer", str(folder / "tok.model"), "--text-length", "20", "--image-size", "32"]
    report = tmp_path / "bad.jsonl"
    arguments = [str(folder / "0.tar"), *options, "--out", str(out), "--samples", "7", "--report", str(report)]
    assert inspect_data.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "all 16 records read = 12 used + 4 skipped" in printed
    assert "1 missing_caption, 1 not_utf8, 2 undecodable_image" in printed
    assert "height:      33 to 64, median 40," in printed and "width:       40 to 90, median 64," in printed
    assert "one colour:  1 images" in printed and "12; an image 1 to 1, median 1," in printed
    assert "1 repeat an earlier one" in printed and "labels" not in printed
    import sentencepiece

    pieces = sentencepiece.SentencePieceProcessor(model_proto=vocabulary())
    captions = [f"a photo {'of a cat ' * i}" for i in range(12) if i != 4] + ["a photo "]
    tokens = np.array([len(pieces.encode(caption)) + 1 for caption in captions])
    assert f"tokens:      {tokens.min()} to {tokens.max()}," in printed
    assert f"{np.mean(tokens > 20):.2%} of the captions are cut to 20" in printed
    page = out.read_text()
    assert "&lt;html" not in page and "Not a JPEG, PNG, GIF, BMP or WebP image; it is an HTML page" in page
    shown = [base64.b64decode(data) for data in re.findall(r'data:image/png;base64,([^"]+)"', page)]
    assert len(shown) == 7 and {Image.open(io.BytesIO(data)).size for data in shown} == {(32, 32)}
    assert "<del>" in page and "cat" in page
    assert Image.open(io.BytesIO(out.with_suffix(".png").read_bytes())).size == (6 * 99 + 3, 2 * 99 + 3)
    assert sorted(json.loads(line)["id"] for line in report.read_text().splitlines()) == [f"bad-{i}" for i in range(4)]
    assert not [path for path in out.parent.iterdir() if path.suffix == ".partial"]


def test_a_part_without_tokenizer(folder, tmp_path, capsys):
    out = tmp_path / "page.html"
    assert inspect_data.main([str(folder), "--limit", "5", "--image-size", "16", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "5 of 16 records read" in printed and "not counted: name a --checkpoint or a --tokenizer" in printed


def test_faults_end_with_a_sentence(folder, tmp_path, capsys):
    for arguments, message in (
        ([str(folder), "--limit", "0"], "limit must be at least 1 record. Received: 0"),
        ([str(folder), "--out", "x.pdf"], "must end in .html. Received: 'x.pdf'"),
        ([str(tmp_path / "nothing.tar")], "nothing.tar"),
        ([str(folder), "--tokenizer", "/nowhere"], "/nowhere"),
    ):
        assert inspect_data.main(arguments) == 2
        assert message in capsys.readouterr().err


def test_the_sheet_holds_every_picture(rng):
    from siglip_tf.data.inspection import Sample

    pixels = rng.integers(0, 256, (8, 100, 100, 3), np.uint8)
    samples = [Sample("s:0", "0", image, "a", None, 0) for image in pixels]
    sheet = np.asarray(Image.open(io.BytesIO(contact_sheet(samples))))
    assert sheet.shape == (2 * 103 + 3, 6 * 103 + 3, 3)
    for number, image in enumerate(pixels):
        top, left = (3 + place * 103 for place in divmod(number, 6))
        np.testing.assert_array_equal(sheet[top : top + 100, left : left + 100], image)
