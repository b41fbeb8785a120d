"""Data sets of each kind, written by the libraries that people write them with, and seeded damage to their bytes."""

import csv
import io
import json
import random
from pathlib import Path

import pyarrow
import pyarrow.parquet
import tensorflow as tf

from tests.data.memory_source import encode
from tests.data.webdataset_library import webdataset

RECORDS = 6
KINDS = ("csv", "jsonl", "tar", "tfrecord", "parquet")
_CAPTIONS = [f'caption {i}, with a "quote", a tab\t and é' for i in range(RECORDS)]


def written(kind: str) -> bytes:
    """The bytes of a sound file of `RECORDS` records."""
    if kind == "csv":
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(["image", "caption"])
        writer.writerows([f"{i:02d}.png", caption] for i, caption in enumerate(_CAPTIONS))
        return text.getvalue().encode()
    if kind == "jsonl":
        rows = [{"image": f"{i:02d}.png", "caption": caption} for i, caption in enumerate(_CAPTIONS)]
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    out = io.BytesIO()
    if kind == "tar":
        with webdataset.TarWriter(out) as tar:
            for i, caption in enumerate(_CAPTIONS):
                tar.write({"__key__": f"{i:02d}", "png": encode(i), "txt": caption, "json": json.dumps({"a": i})})
    elif kind == "parquet":
        rows = [{"key": f"{i:02d}", "jpg": encode(i), "caption": caption} for i, caption in enumerate(_CAPTIONS)]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), out, row_group_size=2)
    else:
        path = "ram://corruptions/sound.tfrecord"
        if tf.io.gfile.exists(path):  # it would be appended to
            tf.io.gfile.remove(path)
        with tf.io.TFRecordWriter(path) as writer:
            for i, caption in enumerate(_CAPTIONS):
                values = {"key": f"{i:02d}".encode(), "jpg": encode(i), "txt": caption.encode()}
                features = {k: tf.train.Feature(bytes_list=tf.train.BytesList(value=[v])) for k, v in values.items()}
                writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())
        with tf.io.gfile.GFile(path, "rb") as file:
            return file.read()
    return out.getvalue()


def corrupted(data: bytes, seed: int) -> tuple[bytes, str]:
    """Damaged bytes, and what was done to them: "flipped", "cut", "swapped" or "appended"."""
    draw = random.Random(seed)
    how = draw.choice(["flipped", "cut", "swapped", "appended"])
    damaged = bytearray(data)
    if how == "flipped":
        for _ in range(draw.choice([1, 1, 2, 8])):
            damaged[draw.randrange(len(data))] = draw.randrange(256)
    elif how == "cut":
        start = draw.randrange(len(data))
        del damaged[start : draw.choice([len(data), start + draw.randrange(1, 200)])]
    elif how == "swapped":
        length = draw.randrange(1, min(64, len(data) // 4))
        a, b = sorted(draw.sample(range(0, len(data) - length), 2))
        b = max(b, a + length)
        damaged[a : a + length], damaged[b : b + length] = data[b : b + length], data[a : a + length]
    else:
        damaged += draw.choice([bytes(draw.randrange(1, 2000)), draw.randbytes(draw.randrange(1, 600)), data[-200:]])
    return bytes(damaged), how


def place(folder: Path, kind: str, data: bytes) -> str:
    """A data set whose last file holds these bytes; shards have a sound one before it."""
    folder.mkdir()
    if kind in ("csv", "jsonl"):
        for i in range(RECORDS):
            (folder / f"{i:02d}.png").write_bytes(encode(i))
        (folder / f"table.{kind}").write_bytes(data)
    else:
        (folder / f"0.{kind}").write_bytes(written(kind))
        (folder / f"1.{kind}").write_bytes(data)
    return str(folder)
