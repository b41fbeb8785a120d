"""Shards with broken records of every kind among many sound ones, and what each of them is."""

import io
import json
import struct
import tarfile
from pathlib import Path

import tensorflow as tf

from tests.data.memory_source import encode
from tests.data.sources.test_tar import img2dataset_sample
from tests.data.sources.test_tfrecord import img2dataset_record, serialize
from tests.data.webdataset_library import webdataset

# A PNG whose header announces 65,536 x 65,536 pixels.
BOMB = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\1\0\0\0\1\0\0\x08\2\0\0\0"

# By the record's number in its shard: what differs from a sound one.
_DIFFERENT = {
    7: ({"jpg": b"not an image"}, "undecodable_image"),
    31: ({"jpg": encode(9)[:40]}, "undecodable_image"),
    54: ({"txt": "  "}, "missing_caption"),
    83: ({"txt": b"caf\xe9"}, "not_utf8"),
    101: ({"jpg": BOMB}, "too_many_pixels"),
    140: ({"jpg": b""}, "missing_image"),
}


def write_tar(folder: Path, sound: int) -> dict[str, int]:
    """Three whole shards of `sound` samples each, a torn one, an empty one; broken records by cause."""
    _write_tar(folder / "00000.tar", range(sound), _DIFFERENT)
    _write_tar(folder / "00001.tar", range(sound), {})
    _write_tar(folder / "00002.tar", range(sound), {})
    _write_tar(folder / "00003.tar", range(sound), {})
    data = (folder / "00003.tar").read_bytes()
    (folder / "00003.tar").write_bytes(data[: len(data) // 2 + 100])
    with tarfile.open(folder / "00004.tar", "w"):
        pass
    return _by_cause({"torn_shard": 1, "empty_shard": 1})


def write_records(folder: Path, sound: int) -> dict[str, int]:
    """As `write_tar`, in TFRecord files; the second file has a record with a wrong checksum as well."""
    _write_records(folder / "00000.tfrecord", range(sound), _DIFFERENT)
    _write_records(folder / "00001.tfrecord", range(sound), {})
    _write_records(folder / "00002.tfrecord", range(sound), {})
    _write_records(folder / "00003.tfrecord", range(sound), {})
    whole = (folder / "00003.tfrecord").read_bytes()
    (folder / "00003.tfrecord").write_bytes(whole[: len(whole) // 2 + 20])
    (folder / "00004.tfrecord").write_bytes(b"")
    flipped = bytearray((folder / "00001.tfrecord").read_bytes())
    start = 0
    for _ in range(20):
        start += struct.unpack("<Q", flipped[start : start + 8])[0] + 16
    flipped[start + 30] ^= 1
    (folder / "00001.tfrecord").write_bytes(flipped)
    return _by_cause({"torn_shard": 1, "empty_shard": 1, "torn_record": 1})


def _by_cause(shards: dict[str, int]) -> dict[str, int]:
    causes = dict(shards)
    for _, cause in _DIFFERENT.values():
        causes[cause] = causes.get(cause, 0) + 1
    return dict(sorted(causes.items()))


def _write_tar(path: Path, numbers: range, different: dict) -> None:
    stem = int(path.stem)
    file = io.BytesIO()
    with webdataset.TarWriter(file) as writer:
        for number in numbers:
            sample = img2dataset_sample(1000 * stem + number)
            fields = different.get(number, ({}, None))[0]
            # Without a text of its own the metadata would be asked for a caption.
            writer.write({**sample, **fields, "json": json.dumps({"key": sample["__key__"]})})
    path.write_bytes(file.getvalue())


def _write_records(path: Path, numbers: range, different: dict) -> None:
    stem = int(path.stem)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for number in numbers:
            own = 1000 * stem + number
            if number in different:
                fields = {"key": f"{own:09d}", "jpg": encode(own), "txt": f"picture {own}", **different[number][0]}
                writer.write(serialize(**fields))
            else:
                writer.write(img2dataset_record(own))
