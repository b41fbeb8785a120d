"""Groups from every kind of source, written by other libraries, up to the batch and the held-out part."""

import csv
import io
import json

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import tensorflow as tf

from siglip_tf.data.pipeline import TrainingData
from siglip_tf.data.sources.groups import NO_GROUP, group_numbers, groups_in_graph
from siglip_tf.data.sources.opening import open_source
from siglip_tf.experiments import held_out
from tests.data.memory_source import encode, tiny_preprocessing
from tests.data.webdataset_library import webdataset

# What a record says, and whether it is a text. The last has none.
VALUES = [3, "3", "a cat", 1 << 40, "über", None]
COUNT = len(VALUES)


def _write(kind, folder, values=VALUES, key="group"):
    folder.mkdir()
    texts = [None if value is None else str(value) for value in values]
    pictures = [encode(number) for number in range(len(values))]
    for number, picture in enumerate(pictures):
        if kind in ("jsonl", "csv"):
            (folder / f"{number}.png").write_bytes(picture)
    if kind == "jsonl":
        rows = [{"image": f"{i}.png", "caption": f"text {i}", key: value} for i, value in enumerate(values)]
        (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif kind == "csv":
        with open(folder / "captions.csv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(
                [["image", "caption", key], *([f"{i}.png", f"text {i}", text] for i, text in enumerate(texts))]
            )
    elif kind == "parquet":
        columns = {"image": pictures, "caption": [f"text {i}" for i in range(len(values))], key: texts}
        pyarrow.parquet.write_table(pyarrow.table(columns), folder / "0.parquet")
    elif kind == "tar":
        with webdataset.TarWriter(str(folder / "0.tar")) as writer:
            for i, value in enumerate(values):
                writer.write({"__key__": f"{i}", "png": pictures[i], "txt": f"text {i}", "json": {key: value}})
    else:
        with tf.io.TFRecordWriter(str(folder / "0.tfrecord")) as writer:
            for i, text in enumerate(texts):
                example = tf.train.Example()
                example.features.feature["jpg"].bytes_list.value.append(pictures[i])
                example.features.feature["txt"].bytes_list.value.append(f"text {i}".encode())
                if text is not None:
                    example.features.feature[key].bytes_list.value.append(text.encode())
                writer.write(example.SerializeToString())
    return str(folder)


@pytest.fixture(scope="module")
def preprocessing():
    return tiny_preprocessing()


@pytest.mark.parametrize(
    "kind", ["jsonl", "csv", "parquet", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("tar", "tfrecord"))]
)
def test_every_source_gives_the_same_groups_and_batches_carry_them(kind, tmp_path, preprocessing):
    named = _write(kind, tmp_path / "named", key="thing") + "?group=thing"
    source = open_source(named)
    assert source.has_groups
    expected = group_numbers(VALUES, "the test")
    assert expected[0] == expected[1] == 3 and expected[3] == 1 << 40 and expected[5] == NO_GROUP
    assert 3 < expected[2] < 1 << 62
    rows = [source.fetch(index) for index in range(COUNT)]
    np.testing.assert_array_equal([row["group"] for row in rows], expected)
    in_graph = tf.data.Dataset.range(COUNT).map(lambda index: source.read(index)["group"])
    np.testing.assert_array_equal(list(in_graph.as_numpy_iterator()), expected)

    # Tar shards alone have to be told: their json is read for nothing else here.
    found = open_source(_write(kind, tmp_path / "found"))
    assert found.has_groups == (kind != "tar")
    if kind not in ("tar", "jsonl"):
        return  # what follows is the same for every source: once by name and once by position is enough
    batch = next(iter(TrainingData(source, preprocessing, COUNT).dataset()))
    assert batch["group"].dtype == tf.int64
    groups = dict(zip(batch["image"][:, 0, 0, 0].numpy().tolist(), batch["group"].numpy().tolist(), strict=True))
    assert [groups[i] for i in range(5)] == expected[:5].tolist()
    assert groups[5] >= 1 << 62  # a group of its own


def test_texts_hash_alike_in_and_out_of_the_graph():
    texts = ["", " 7 ", "-1", "007", "a", "12345678901234567890", "x 1.5"]
    expected = group_numbers(texts, "the test")
    np.testing.assert_array_equal(groups_in_graph(tf.constant(texts)), expected)
    assert expected[:4].tolist() == [NO_GROUP, 7, NO_GROUP, 7]
    # Another implementation's Fingerprint64 of "a" (Guava's farmHashFingerprint64), by its low 62 bits.
    assert expected[4] == 0xB3454265B6DF75E3 % (1 << 62)


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        ("jsonl", 0.5, r"whole numbers from 0 on, or as texts, in column 'group' of .*Received: '0.5'"),
        ("jsonl", 3.0, "Received: '3.0'"),
        ("jsonl", -3, "Received: '-3'"),
        ("jsonl", True, "Received: 'True'"),
        ("jsonl", [1], r"Received: '\[1\]'"),
        ("csv", 0.5, "Received: '0.5'"),
        ("tar", 0.5, "'group' of the json of sample '0'. Received: '0.5'"),
        ("parquet", 0.5, "Received: '0.5'"),
        ("tfrecord", 0.5, "in the feature 'group'. Received: '0.5'"),
    ],
)
def test_groups_that_are_no_whole_numbers_are_refused(kind, value, message, tmp_path):
    folder = _write(kind, tmp_path / "data", [value, 1])
    with pytest.raises(ValueError, match=message):
        open_source(folder + ("?group=group" if kind == "tar" else ""))


def test_features_and_columns_of_floats_are_refused(tmp_path):
    buffer = io.BytesIO()
    columns = {"image": [encode(0)], "caption": ["a"], "group": pyarrow.array([0.25])}
    pyarrow.parquet.write_table(pyarrow.table(columns), buffer)
    (tmp_path / "0.parquet").write_bytes(buffer.getvalue())
    with pytest.raises(ValueError, match="'group' of .*0.parquet. Received: '0.25'"):
        open_source(str(tmp_path / "0.parquet"))
    example = tf.train.Example()
    example.features.feature["jpg"].bytes_list.value.append(encode(0))
    example.features.feature["txt"].bytes_list.value.append(b"a")
    example.features.feature["group"].float_list.value.append(0.25)
    with tf.io.TFRecordWriter(str(tmp_path / "0.tfrecord")) as writer:
        writer.write(example.SerializeToString())
    with pytest.raises(ValueError, match=r"group feature 'group' as bytes_list or int64_list.*float_list: \[0.25\]"):
        open_source(str(tmp_path / "0.tfrecord"))
    with pytest.raises(ValueError, match="column 'thing'"):
        open_source(_write("jsonl", tmp_path / "c") + "?group=thing")


def test_a_picture_in_two_groups_is_refused(tmp_path):
    folder = _write("jsonl", tmp_path / "data")
    table = tmp_path / "data" / "captions.jsonl"
    table.write_text(table.read_text() + json.dumps({"image": "0.png", "caption": "more", "group": 4}) + "\n")
    with pytest.raises(ValueError, match="'0.png' is in two groups, 3 and 4"):
        open_source(folder)


def test_a_split_that_is_made_here_does_not_divide_a_group(tmp_path):
    values = [number // 4 for number in range(200)]
    folder = _write("jsonl", tmp_path / "folder", values)
    parts = {split: open_source(folder, split=split) for split in ("train", "validation", "test")}
    groups = {split: {int(part.fetch(i)["group"]) for i in range(part.size)} for split, part in parts.items()}
    assert sum(len(found) for found in groups.values()) == 50 and min(map(len, groups.values())) > 0
    assert all(part.size == 4 * len(groups[split]) for split, part in parts.items())

    # Of shards the last twentieth: 190 to 199, of which 190 and 191 are of a group of training.
    task = held_out.own_data(_write("tar", tmp_path / "tar", values) + "?group=group")
    assert (task.train.size, task.held_out.size) == (190, 8)
    whole = _write("tfrecord", tmp_path / "whole", [f"only {i % 2}" for i in range(40)])
    with pytest.raises(ValueError, match="Nothing is left to evaluate: each of the 2 records held out of .*whole is"):
        held_out.own_data(whole)


def test_a_split_that_the_data_name_stays_where_there_are_labels(tmp_path):
    def rows(labels):
        for i in range(8):
            row = {"image": f"{i}.png", "caption": f"text {i}", "group": i // 2 if i else 9}
            yield row | {"split": ("train", "test")[i % 2]} | ({"label": f"name {i // 2}"} if labels else {})

    folder = tmp_path / "data"
    _write("jsonl", folder, range(8))
    sizes = []
    for labels in (True, False):
        (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(labels)))
        sizes.append(held_out.own_data(str(folder)).held_out.size)
    assert sizes == [4, 1]  # without labels the records 3, 5 and 7 have their twins in training
