"""TFRecord shards in img2dataset's layout and others, whole and broken, at any record and from end to end."""

import numpy as np
import pytest
import tensorflow as tf

from siglip_tf.data.sources import open_source
from siglip_tf.data.sources.shards.tfrecord import TFRecordSource
from tests.data.memory_source import encode
from tests.data.sources.reading import assert_reads_shards, fill_shards, in_graph, run, same


def serialize(**features) -> bytes:
    """A `tf.train.Example`; lists of bytes or integers."""

    def feature(values):
        values = values if isinstance(values, list) else [values]
        if isinstance(values[0], int):
            return tf.train.Feature(int64_list=tf.train.Int64List(value=values))
        values = [v.encode() if isinstance(v, str) else v for v in values]
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))

    named = {name.replace("__", "/"): feature(values) for name, values in features.items()}
    return tf.train.Example(features=tf.train.Features(feature=named)).SerializeToString()


def img2dataset_record(number: int) -> bytes:
    """img2dataset's layout: "key", the encoding as a feature's name, "txt", metadata."""
    return serialize(key=f"{number:09d}", jpg=encode(number), txt=f"picture {number}", url="http://a.b", width=4)


def write(path, records: list[bytes]) -> str:
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)
    return str(path)


@pytest.fixture
def shards(tmp_path):
    fill_shards(tmp_path, "tfrecord", write, img2dataset_record)
    return tmp_path


@pytest.mark.parametrize("random_access", [True, False])
def test_img2dataset_layout(shards, random_access):
    source = TFRecordSource(str(shards), random_access=random_access)
    assert_reads_shards(source, shards, "tfrecord", random_access)


def test_remote_shards():
    for shard in range(2):
        write(f"ram://records/{shard}.tfrecord", [img2dataset_record(10 * shard + i) for i in range(3)])
    source = TFRecordSource("ram://records")
    np.testing.assert_array_equal(source.runs, [0, 3, 6])
    read = in_graph(source)
    assert [int(example["id"]) for example in read] == [0, 1, 2, 10, 11, 12]
    assert all(same(a, source.fetch(i)) for i, a in enumerate(read))
    assert [int(example["id"]) for example in run(source, 4, 1)] == [11]
    with pytest.raises(ValueError, match="Only local shards"):
        TFRecordSource("ram://records", random_access=True)


def test_named_features(tmp_path):
    path = write(tmp_path / "a.tfrecord-00000-of-00001", [
        serialize(image__encoded=encode(1), sentences=["one", "zwei"], tongues=["en", "de"], number=12, cls=3),
        serialize(image__encoded=encode(2), sentences=["two"], tongues=["en"], number=13, cls=-1),
        serialize(image__encoded=encode(3), number=14),
    ])  # fmt: skip
    source = TFRecordSource(path, caption="sentences", language="tongues", id="number", label="cls")
    first, second, third = in_graph(source)
    assert first["captions"].tolist() == [b"one", b"zwei"] and first["language"].tolist() == [b"en", b"de"]
    assert (first["label"], second["label"], third["label"]) == (3, -1, -1)
    assert [e["id"] for e in (first, second, third)] == [b"12", b"13", b"14"]
    assert third["captions"].tolist() == [] and third["image"] == encode(3)
    unnamed = in_graph(TFRecordSource(path, caption="sentences"))
    assert [e["id"] for e in unnamed] == [f"a.tfrecord-00000-of-00001:{i}".encode() for i in range(3)]


def test_a_record_that_is_no_example(tmp_path):
    """TensorFlow's error repeats the record's bytes, of which Python cannot make a message."""
    source = TFRecordSource(write(tmp_path / "a.tfrecord", [img2dataset_record(0), b"\xff\xfe no example \x93"]))
    assert source.fetch(0)["image"] == encode(0)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"\\xff\\xfe no example"):
        source.fetch(1)


@pytest.mark.parametrize("random_access", [True, False])
def test_torn_and_empty_shards(tmp_path, random_access):
    whole = write(tmp_path / "whole.tfrecord", [img2dataset_record(i) for i in range(6)])
    data = (tmp_path / "whole.tfrecord").read_bytes()
    third = sum(len(img2dataset_record(i)) + 16 for i in range(2))
    end = third + len(img2dataset_record(2)) + 16
    empty = tmp_path / "b.tfrecord"
    empty.write_bytes(b"")
    torn = tmp_path / "c.tfrecord"
    for cut in (third + 5, end - 1):  # in the frame's header, and in its last byte
        torn.write_bytes(data[:cut])
        source = TFRecordSource([whole, str(empty), str(torn)], random_access=random_access)
        assert source.size == 6 + 1 + 3
        causes = [source.fetch(i).get("cause", b"").decode() for i in range(source.size)]
        assert causes == [""] * 6 + ["empty_shard", "", "", "torn_shard"]
        assert source.locate(9) == (str(torn), 2)
        sound = [i for i, cause in enumerate(causes) if not cause]
        dataset = tf.data.Dataset.from_tensor_slices(np.array(sound)).map(source.read)
        assert [e["image"] for e in dataset.as_numpy_iterator()] == [encode(n) for n in [*range(6), 0, 1]]
        if not random_access:
            images = [example["image"] for example in in_graph(source)]
            assert images == [encode(n) for n in range(6)] + [b""] + [encode(0), encode(1)] + [b""]


@pytest.mark.parametrize("random_access", [True, False])
def test_a_record_with_a_wrong_checksum_is_lost_alone(tmp_path, random_access):
    path = write(tmp_path / "a.tfrecord", [img2dataset_record(i) for i in range(6)])
    data = bytearray((tmp_path / "a.tfrecord").read_bytes())
    data[sum(len(img2dataset_record(i)) + 16 for i in range(2)) + 60] ^= 1
    (tmp_path / "a.tfrecord").write_bytes(data)
    source = TFRecordSource(path, random_access=random_access)
    assert source.size == 6
    with pytest.raises(tf.errors.DataLossError):
        source.fetch(2)
    if random_access:
        dataset = tf.data.Dataset.range(6).map(source.read).ignore_errors()
        assert [int(e["id"]) for e in dataset.as_numpy_iterator()] == [0, 1, 3, 4, 5]
    else:
        assert [e["image"] for e in in_graph(source)] == [encode(n) if n != 2 else b"" for n in range(6)]


def test_names_of_shards(tmp_path):
    """One rule for a file, a glob and a folder; other names need their kind."""
    names = ["x.tfrecords", "x.tfrec", "x.TFRecord", "x.tfrecord-00000-of-00001", "x.tfrecords-0-of-1"]
    for number, name in enumerate(names):
        (tmp_path / f"{number}").mkdir()
        write(tmp_path / f"{number}" / name, [img2dataset_record(number)])
        for spec in (tmp_path / f"{number}", tmp_path / f"{number}" / name, tmp_path / f"{number}" / (name[:-2] + "*")):
            source = open_source(str(spec))
            assert isinstance(source, TFRecordSource) and source.fetch(0)["image"] == encode(number), spec
    write(tmp_path / "train-00000-of-00001", [img2dataset_record(7)])
    with pytest.raises(ValueError, match="It exists: name its kind by .kind=tar, tfrecord or parquet"):
        open_source(str(tmp_path / "train-00000-of-00001"))
    assert open_source(f"{tmp_path}/train-00000-of-00001?kind=tfrecord").size == 1
    assert open_source(f"{tmp_path}?kind=tfrecord&suffix=-of-00001").size == 1


def test_labels_and_names_of_other_types(tmp_path):
    """What is picked by itself never makes a record unreadable; what is named is read, or refused at once."""
    values = ["cat", "12", "-3", "", "99999999999", b"\xff"]
    records = [serialize(jpg=encode(i), txt="a", label=value) for i, value in enumerate(values)]
    source = TFRecordSource(write(tmp_path / "a.tfrecord", records))
    assert [int(source.fetch(i)["label"]) for i in range(6)] == [-1, 12, -3, -1, -1, -1]
    assert [int(example["label"]) for example in in_graph(source)] == [-1, 12, -3, -1, -1, -1]
    with pytest.raises(ValueError, match="Expected integers as the label feature 'label'. The first record .* 'cat'"):
        TFRecordSource(str(tmp_path / "a.tfrecord"), label="label")
    numbers = tf.train.Feature(float_list=tf.train.FloatList(value=[0.5]))
    example = tf.train.Example.FromString(serialize(jpg=encode(1), txt="a", image=3, caption=4))
    for name in ("id", "key", "label"):
        example.features.feature[name].CopyFrom(numbers)
    source = TFRecordSource(write(tmp_path / "b.tfrecord", [example.SerializeToString()]))
    assert source.features == {"image": "jpg", "captions": "txt"} and source.fetch(0)["id"] == b"b.tfrecord:0"
    with pytest.raises(ValueError, match="the id feature 'key' as bytes_list or int64_list. .* holds it as float_list"):
        TFRecordSource(str(tmp_path / "b.tfrecord"), id="key")


def test_wrong_files(shards, tmp_path):
    with pytest.raises(ValueError, match=r"Expected 'title' as the caption feature. The first record holds \['jpg'"):
        TFRecordSource(str(shards), caption="title")
    path = write(tmp_path / "x.tfrecord", [serialize(picture=b"x", txt="y")])
    with pytest.raises(ValueError, match="Expected one of jpg, image, .* as the image feature"):
        TFRecordSource(path)
    with pytest.raises(ValueError, match="holds no tf.train.Examples"):
        TFRecordSource(write(tmp_path / "y.tfrecord", [b"\xff\xfe"]))
    (tmp_path / "z.tfrecord").write_bytes(b"no records" * 10)
    with pytest.raises(ValueError, match="holds no record that can be read"):
        TFRecordSource(str(tmp_path / "z.tfrecord"))
    (tmp_path / "c.tfrecord.gz").touch()
    with pytest.raises(ValueError, match="is compressed"):
        TFRecordSource(str(tmp_path / "c.tfrecord.gz"))
