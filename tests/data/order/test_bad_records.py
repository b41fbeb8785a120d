"""Diagnoses of broken examples, and the report that names them."""

import json

import numpy as np
import pytest
import tensorflow as tf

from siglip_tf.data.order.bad_records import BadRecordReport, Cause, Explainer, diagnose
from siglip_tf.data.preprocessing import ImagePreprocessing
from siglip_tf.data.text.captions import is_utf8
from tests.data.memory_source import MemorySource, encode


def _example(**changed) -> dict:
    return {"image": encode(1), "captions": np.array([b"a"], object), "id": b"x", **changed}


@pytest.mark.parametrize(
    ("changed", "cause"),
    [
        ({}, None),
        ({"captions": np.array([b" ", b"text"], object)}, None),
        ({"captions": np.zeros([0], object)}, Cause.MISSING_CAPTION),
        ({"captions": np.array([b"", b" \n"], object)}, Cause.MISSING_CAPTION),
        ({"captions": np.array([b"fine", b"\xff"], object)}, Cause.NOT_UTF8),
        ({"image": b""}, Cause.MISSING_IMAGE),
        ({"image": b"\xff\xd8\xff"}, Cause.UNDECODABLE_IMAGE),
        ({"image": encode(1)[:50]}, Cause.UNDECODABLE_IMAGE),
        ({"image": b"GIF89a"}, Cause.UNDECODABLE_IMAGE),
        ({"image": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\1\0\0\0\1\0\0"}, Cause.TOO_MANY_PIXELS),
        ({"cause": b"torn_shard", "image": b""}, Cause.TORN_SHARD),
    ],
)
def test_causes(changed, cause):
    found = diagnose(_example(**changed), ImagePreprocessing(4))
    assert (found and found[0]) == cause


def test_without_decoding():
    assert diagnose(_example(image=b"anything"), None) is None


def test_is_utf8_agrees_with_python():
    texts = ["plain", "Grüße", "日本語", "🐕", "a\0b", "\ufffd"]
    raw = [t.encode() for t in texts] + [
        b"\xff",
        b"caf\xe9",
        b"\xed\xa0\x80",
        b"\xc0\x80",
        b"\xf5\x80\x80\x80",
        b"\xe2\x82",
    ]

    def valid(text: bytes) -> bool:
        try:
            text.decode()
        except UnicodeDecodeError:
            return False
        return True

    np.testing.assert_array_equal(is_utf8(tf.constant(raw)).numpy(), [valid(text) for text in raw])


def test_report_is_continued_and_repeats_nothing(tmp_path):
    path = tmp_path / "deep" / "bad.jsonl"
    report = BadRecordReport(str(path))
    report.add("s", 3, Cause.NOT_UTF8, "why", "id-3")
    report.add("s", 3, Cause.NOT_UTF8)
    assert json.loads(path.read_text()) == {
        "shard": "s", "offset": 3, "id": "id-3", "cause": "not_utf8", "detail": "why"
    }  # fmt: skip
    with path.open("a") as file:
        file.write('{"shard": "s", "off')  # a kill tears the last line
    again = BadRecordReport(str(path))
    assert len(again) == 1 and again.known("s", 3) == Cause.NOT_UTF8 and again.known("s", 4) is None
    again.add("s", 3, Cause.NOT_UTF8)
    again.add("s", 4, Cause.MISSING_IMAGE)
    assert len(path.read_text().splitlines()) == 2
    assert again.by_cause == {"not_utf8": 1, "missing_image": 1}
    path.write_text("something else\n")
    with pytest.raises(ValueError, match="line 1 is not a line of a report"):
        BadRecordReport(str(path))


def test_unreadable_shards_are_tried_once():
    class Gone(MemorySource):
        tries = 0

        def fetch(self, index):
            Gone.tries += 1
            raise tf.errors.NotFoundError(None, None, "no such shard\nat some node")

    report = BadRecordReport(None)
    explain = Explainer(report, ImagePreprocessing(4))
    assert [explain(Gone(40), index) for index in range(15)] == [Cause.UNREADABLE] * 15
    assert Gone.tries == 2 and report.by_cause == {"unreadable": 15}


def test_what_can_be_read_again_is_no_secret():
    report = BadRecordReport(None)
    assert Explainer(report, ImagePreprocessing(4))(MemorySource(3), 1) == Cause.UNREADABLE
    assert Explainer(BadRecordReport(None), ImagePreprocessing(4), certain=False)(MemorySource(3), 1) is None
