"""Stored embeddings: written once whatever happens, read back bit by bit, refused for another model."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from safetensors import safe_open

from siglip_tf.data.embeddings.stored import StoredEmbeddings, read_shard, tower_fingerprint
from siglip_tf.data.embeddings.writer import EmbeddingWriter
from siglip_tf.data.order.bad_records import TooManyBadRecordsError
from siglip_tf.data.preprocessing import ImagePreprocessing, Preprocessing
from tests.data.memory_source import MemorySource, encode, tiny_preprocessing

SIZE, DIM = 47, 3
BROKEN = {
    3: {"image": b"not an image"},
    11: {"captions": []},
    13: {"captions": [b"caf\xe9"]},
    20: {"captions": ["  ", "one usable caption"]},
    40: {"image": b""},
}


class KilledError(Exception):
    pass


class Tower:
    """Embeds an image as its mean colour; can be killed after some batches."""

    def __init__(self, batches: int = 1 << 30):
        self.left = batches
        self.images = 0

    def __call__(self, pixels):
        if self.left == 0:
            raise KilledError
        self.left -= 1
        self.images += len(pixels)
        return tf.reduce_mean(tf.cast(pixels, tf.float32), [1, 2]) / 255


@pytest.fixture(scope="module")
def preprocessing():
    return tiny_preprocessing()


@pytest.fixture(scope="module")
def whole(preprocessing, tmp_path_factory) -> Path:
    """A folder that was written in one go."""
    folder = tmp_path_factory.mktemp("whole")
    writer(folder, preprocessing).run()
    return folder


def writer(folder, preprocessing, source=None, tower=None, **options) -> EmbeddingWriter:
    options = {"tower": "a tower", "embed_dim": DIM, "batch_size": 4, "shard_records": 10, **options}
    return EmbeddingWriter(folder, source or MemorySource(SIZE, captions=2), preprocessing, tower or Tower(), **options)


def all_bytes(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def expected_embedding(record: int) -> np.ndarray:
    return np.array([record & 255, record >> 8 & 255, record >> 16 & 255], np.float32) / 255


@pytest.mark.parametrize(
    "dtype", ["bfloat16", *(pytest.param(d, marks=pytest.mark.slow) for d in ("float16", "float32"))]
)
def test_every_image_and_caption_comes_back(tmp_path, preprocessing, dtype):
    stored = writer(tmp_path, preprocessing, dtype=dtype).run()
    assert (stored.size, stored.texts, stored.embed_dim, stored.text_length) == (SIZE, 2 * SIZE, DIM, 6)
    images = np.random.default_rng(0).permutation(SIZE).repeat(2)
    embeddings, texts = stored.gather(images, np.tile([0, 3], SIZE))
    expected = np.stack([expected_embedding(image) for image in images]).astype(tf.as_dtype(dtype).as_numpy_dtype)
    np.testing.assert_array_equal(embeddings, expected)
    captions = [
        f"{choice % 2} says memory {image}" for image, choice in zip(images, np.tile([0, 3], SIZE), strict=True)
    ]
    np.testing.assert_array_equal(texts, preprocessing.text(captions))


def test_shards_are_plain_safetensors(whole):
    with safe_open(whole / "shard-00004-of-00005.safetensors", "np") as file:
        assert sorted(file.keys()) == ["first_text", "image_embedding", "record", "text"]
        np.testing.assert_array_equal(file.get_tensor("record"), np.arange(40, 47))
        np.testing.assert_array_equal(file.get_tensor("first_text"), np.arange(0, 15, 2))
        assert file.get_tensor("image_embedding").dtype == np.float16


@pytest.mark.parametrize("batches", [8, pytest.param(1, marks=pytest.mark.slow)])
def test_a_killed_run_goes_on_at_its_first_missing_shard(tmp_path, preprocessing, whole, batches):
    killed = tmp_path / "killed"
    with pytest.raises(KilledError):
        writer(killed, preprocessing, tower=Tower(batches)).run()
    with pytest.raises(ValueError, match="unfinished"):
        StoredEmbeddings(killed)
    (killed / ".shard-00004-of-00005.safetensors.5eed.partial").write_bytes(b"torn by the kill")
    there = {path.name for path in killed.glob("*.safetensors")}
    assert len(there) == batches * 4 // 10
    tower = Tower()
    writer(killed, preprocessing, tower=tower).run()
    assert tower.images < SIZE - 10 * len(there) + 4  # nothing that was there is done again
    assert all_bytes(killed) == all_bytes(whole)


def test_workers_share_the_shards_and_the_last_ends_the_manifest(tmp_path, preprocessing, whole):
    shared = tmp_path / "shared"
    assert writer(shared, preprocessing, worker=1, workers=2).run() is None
    assert writer(shared, preprocessing, worker=0, workers=2).run().size == SIZE
    assert all_bytes(shared) == all_bytes(whole)


def test_broken_records_are_counted_by_cause_and_named(tmp_path, preprocessing):
    report = tmp_path / "bad.jsonl"
    source = MemorySource(SIZE, BROKEN)
    stored = writer(tmp_path / "e", preprocessing, source, bad_record_limit=0.3, report=str(report)).run()
    counts = stored.manifest["counts"]
    assert counts["skipped"] == {"missing_caption": 1, "missing_image": 1, "not_utf8": 1, "undecodable_image": 1}
    assert counts["read"] == counts["images"] + sum(counts["skipped"].values()) == SIZE
    lines = [json.loads(line) for line in report.read_text().splitlines()]
    assert sorted((line["shard"], line["offset"]) for line in lines) == [
        ("memory-0", 3),
        ("memory-1", 1),
        ("memory-1", 3),
        ("memory-4", 0),
    ]
    records = np.concatenate([read_shard(str(path))[0]["record"] for path in sorted((tmp_path / "e").glob("*.safe*"))])
    np.testing.assert_array_equal(records, [i for i in range(SIZE) if i not in (3, 11, 13, 40)])
    _, text = stored.gather(np.array([17]), np.array([5]))  # record 20, one of whose captions is blank
    np.testing.assert_array_equal(text, preprocessing.text(["one usable caption"]))


def test_too_many_broken_records_are_an_error(tmp_path, preprocessing):
    with pytest.raises(TooManyBadRecordsError, match="2 of the 10 records of shard 1"):
        writer(tmp_path, preprocessing, MemorySource(SIZE, BROKEN), bad_record_limit=0.05).run()


def test_a_shard_without_a_sound_record(tmp_path, preprocessing):
    broken = {i: {"image": b""} for i in range(10, 20)}
    stored = writer(tmp_path, preprocessing, MemorySource(SIZE, broken), bad_record_limit=1.0).run()
    assert stored.size == SIZE - 10
    embeddings, _ = stored.gather(np.array([9, 10]), np.array([0, 0]))
    np.testing.assert_allclose(embeddings, [expected_embedding(9), expected_embedding(20)], rtol=1e-3)


def test_another_tower_preprocessing_or_source_is_refused(whole, preprocessing):
    stored = StoredEmbeddings(whole)
    stored.check("a tower", preprocessing)
    stored.check(preprocessing=Preprocessing(None, preprocessing.text))
    with pytest.raises(ValueError, match="tower: stored 'a tower', wanted 'another'"):
        stored.check("another")
    other = Preprocessing(ImagePreprocessing(4, "bicubic_antialias"), preprocessing.text)
    with pytest.raises(ValueError, match=r"preprocessing\.image\.method: stored 'big_vision'"):
        stored.check(preprocessing=other)
    with pytest.raises(ValueError, match=r"image\.method"):
        writer(whole, other)
    with pytest.raises(ValueError, match=r"text\.length: stored 6, wanted 7"):
        writer(whole, tiny_preprocessing(length=7))
    with pytest.raises(ValueError, match=r"source\.size"):
        writer(whole, preprocessing, MemorySource(20))
    with pytest.raises(ValueError, match="dtype: stored 'float16'"):
        writer(whole, preprocessing, dtype="float32")


def test_damaged_folders_are_refused(tmp_path, whole):
    with pytest.raises(ValueError, match=r"no manifest\.json"):
        StoredEmbeddings(tmp_path)
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    shard = tmp_path / "shard-00002-of-00005.safetensors"
    content = shard.read_bytes()
    for damaged in (content[:-1], content[:30], b"\0" * 100):
        shard.write_bytes(damaged)
        with pytest.raises(ValueError, match="shard-00002.*(cut short|not a shard)"):
            StoredEmbeddings(tmp_path)
    shard.write_bytes((tmp_path / "shard-00004-of-00005.safetensors").read_bytes())
    with pytest.raises(ValueError, match=r"not the shard that manifest\.json counts"):
        StoredEmbeddings(tmp_path)


def test_embeddings_that_are_not_finite_are_an_error(tmp_path, preprocessing):
    with pytest.raises(ValueError, match="not finite"):
        writer(tmp_path, preprocessing, tower=lambda pixels: np.full((len(pixels), DIM), np.nan)).run()


@pytest.mark.slow
def test_progress_is_told(tmp_path, preprocessing):
    told = []
    with pytest.raises(KilledError):
        writer(tmp_path, preprocessing, tower=Tower(6)).run()
    writer(tmp_path, preprocessing).run(told.append)
    assert told[0].done > 20
    assert told[-1].done == told[-1].total == SIZE
    assert told[-1].seconds_left == 0


def test_errors_name_the_value(tmp_path, preprocessing):
    for options, message in (
        ({"dtype": "int8"}, "'int8'"),
        ({"shard_records": 0}, "shard_records"),
        ({"worker": 2, "workers": 2}, "2 of 2"),
        ({"batch_size": 0}, "batch_size"),
    ):
        with pytest.raises(ValueError, match=message):
            writer(tmp_path, preprocessing, **options)


def test_tower_fingerprint_sees_names_shapes_and_values(rng):
    weights = {"image/a": rng.normal(size=(2, 3)), "image/b": np.zeros(6, np.float32)}
    print_ = tower_fingerprint(weights)
    assert print_ == tower_fingerprint({name: tf.Variable(weights[name], dtype=tf.float32) for name in sorted(weights)})
    for change in ({"image/a": weights["image/a"] + 1e-6}, {"image/b": np.zeros((2, 3))}, {"image/c": np.zeros(1)}):
        assert tower_fingerprint({**weights, **change}) != print_


def test_encode_is_the_memory_source(preprocessing):
    """The oracle above rests on this: a record's PNG is one colour, which resizing keeps."""
    pixels = preprocessing.image.pixels(encode(70_000)).numpy()
    np.testing.assert_array_equal(np.unique(pixels.reshape(-1, 3), axis=0), [[112, 17, 1]])
