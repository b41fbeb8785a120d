"""Tar shards as the webdataset library and img2dataset write them, whole and broken, local and remote."""

import gc
import io
import json
import random
import tarfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from siglip_tf.data.order.bad_records import diagnose
from siglip_tf.data.sources.shards.tar import TarSource
from siglip_tf.data.sources.shards.tar_members import plain_members
from tests.data.memory_source import encode
from tests.data.sources.reading import assert_reads_shards, fill_shards, in_graph, same
from tests.data.webdataset_library import webdataset


def write_shard(path, samples: list[dict]) -> str:
    """By the webdataset library, as img2dataset does."""
    with webdataset.TarWriter(str(path)) as writer:
        for sample in samples:
            writer.write(sample)
    return str(path)


def img2dataset_sample(number: int, **more) -> dict:
    """img2dataset's layout: key of nine digits, image, `txt`, `json` with metadata."""
    key = f"{number:09d}"
    fields = {
        "caption": f"picture {number}",
        "url": f"http://a.b/{number}",
        "key": key,
        "status": "success",
        "width": 4,
    }
    return {"__key__": key, "jpg": encode(number), "txt": f"picture {number}", "json": json.dumps(fields), **more}


def examples(source) -> list[dict]:
    return [source.fetch(index) for index in range(source.size)]


@pytest.fixture
def shards(tmp_path):
    fill_shards(tmp_path, "tar", write_shard, img2dataset_sample)
    return tmp_path


@pytest.mark.parametrize("random_access", [True, False])
def test_img2dataset_layout(shards, random_access):
    source = TarSource(str(shards), random_access=random_access)
    assert_reads_shards(source, shards, "tar", random_access)


@pytest.mark.filterwarnings("ignore:.*FileIO:pytest.PytestUnraisableExceptionWarning")
def test_the_webdataset_library_reads_the_same(shards):
    source = TarSource(str(shards / "{00000..00002}.tar"))
    expected = list(webdataset.WebDataset([f"file:{shards}/{i:05d}.tar" for i in range(3)], shardshuffle=False))
    for ours, theirs in zip(in_graph(source), expected, strict=True):
        assert ours["id"].decode() == theirs["__key__"]
        assert ours["image"] == theirs["jpg"] and ours["captions"].tolist() == [theirs["txt"]]
    gc.collect()  # the library leaves its files open; their warning belongs to this test


def test_remote_shards_are_read_whole():
    """`ram://` is a file system of TensorFlow's own, as `gs://` is."""
    for shard in range(2):
        buffer = io.BytesIO()
        with webdataset.TarWriter(buffer) as writer:
            for i in range(3):
                writer.write(img2dataset_sample(10 * shard + i))
        with tf.io.gfile.GFile(f"ram://tar/{shard:05d}.tar", "wb") as file:
            file.write(buffer.getvalue())
    source = TarSource("ram://tar")
    np.testing.assert_array_equal(source.runs, [0, 3, 6])
    assert [e["id"].decode() for e in in_graph(source)] == [f"{n:09d}" for n in (0, 1, 2, 10, 11, 12)]
    assert all(same(a, b) for a, b in zip(in_graph(source), examples(source), strict=True))
    assert source.read(tf.constant(4, tf.int64))["image"] == encode(11)
    with pytest.raises(ValueError, match="Only local shards can be read at random. Received: 'ram://tar"):
        TarSource("ram://tar", random_access=True)


def test_json_captions_languages_and_labels(tmp_path):
    fields = {"captions": ["ein Hund", "a dog"], "lang": ["de", "en"], "number": 7}
    path = write_shard(tmp_path / "a.tar", [
        {"__key__": "dir/one", "png": encode(1), "json": json.dumps(fields)},
        {"__key__": "dir/two", "jpeg": encode(2), "txt": "ignored", "json": '{"captions": "only", "lang": "en"}'},
        {"__key__": "three", "jpg": encode(3), "txt": "Grüße 🐕", "json": "{broken", "cls": "4"},
    ])  # fmt: skip
    source = TarSource(path, caption_keys=["captions"], language_key="lang", label_key="number")
    one, two, three = in_graph(source)
    assert one["captions"].tolist() == [b"ein Hund", b"a dog"] and one["language"].tolist() == [b"de", b"en"]
    assert (one["label"], two["label"], three["label"]) == (7, -1, -1)
    assert two["captions"].tolist() == [b"only"] and two["language"].tolist() == [b"en"]
    assert three["captions"].tolist() == ["Grüße 🐕".encode()]
    labelled = in_graph(TarSource(path))
    assert [int(e["label"]) for e in labelled] == [-1, -1, 4]
    assert labelled[0]["captions"].tolist() == [b"ein Hund", b"a dog"] and labelled[1]["captions"].tolist() == [
        b"ignored"
    ]


def test_long_names_and_other_members(tmp_path):
    """PAX headers, folders, files without extension and `__meta__` files are no samples."""
    long = "folder/" * 30 + "name"
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        members = {"README": b"x", "__meta__.json": b"{}", long + ".txt": b"text", long + ".jpg": b"image"}
        for name, data in {**members, "é.JPG": b"second", "é.txt": b"two"}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        tar.addfile(_folder("somewhere.jpg"))
    first, second = in_graph(TarSource(str(tmp_path / "a.tar")))
    assert first["id"].decode() == long and first["image"] == b"image" and first["captions"].tolist() == [b"text"]
    assert second["id"].decode() == "é" and second["image"] == b"second"


def _tar(path, members, form=tarfile.PAX_FORMAT) -> str:
    """A shard of members in turn: (name, bytes)."""
    with tarfile.open(path, "w", format=form) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return str(path)


@pytest.mark.filterwarnings("ignore:.*FileIO:pytest.PytestUnraisableExceptionWarning")
def test_samples_are_those_of_the_webdataset_library(tmp_path):
    """Names drawn at random, in every format of tar: the same keys, and each exact `png` and `txt` of a sample."""
    for seed, form in enumerate((tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)):
        draw = random.Random(seed)
        names = []
        for i in range(30):
            stem = draw.choice(["", "a/", "./", "x.y/"]) + f"{i:04d}" + "é" * (i % 2) + "n" * draw.choice([0, 60])
            inside = ["png", "TXT", "mask.png", "ocr.txt", "json"]
            names += [f"{stem}.{extension}" for extension in draw.sample(inside, draw.randrange(1, 6))]
        members = [(name, b"{}" if name.endswith("json") else name.encode()) for name in names]
        path = _tar(tmp_path / f"{seed}.tar", members, form)
        records = {}
        for example in in_graph(TarSource(path)):
            records.setdefault(example["id"].decode(), []).append(example)
        for sample in webdataset.WebDataset([f"file:{path}"], shardshuffle=False):
            found = records.pop(sample["__key__"])
            images = [example["image"] for example in found if example["image"]]
            assert images == ([sample["png"]] if "png" in sample else []), sample
            if "png" in sample:
                assert found[0]["captions"].tolist() == ([sample["txt"]] if "txt" in sample else [b""])
        # What is left are pictures without a sample's own: each with a text of its name, or counted as broken.
        assert all("." in key.rpartition("/")[2] for key in records)
        with open(path, "rb") as file, tarfile.open(path) as tar:
            assert plain_members(file) == [(m.name, (m.offset_data, m.size)) for m in tar if m.isreg()]
    gc.collect()


def test_no_picture_is_left_out_without_being_counted(tmp_path):
    cases = {
        "names with dots": [f"IMG_2023.01.0{i}.{e}" for i in (1, 2, 3) for e in ("png", "txt")],
        "names with dots, no texts": [f"IMG_2023.01.0{i}.png" for i in (1, 2, 3)],
        "repeated names": ["1.png", "1.txt", "1.png", "1.txt", "1.png"],
        "two eyes": ["1.left.png", "1.right.png", "1.txt"],
        "one eye": ["1.left.png", "1.txt"],
        "neighbours only": ["1.png", "2.png", "1.txt", "2.txt"],
    }
    expected = {
        "names with dots": (3, 0), "names with dots, no texts": (0, 3), "repeated names": (2, 1), "two eyes": (0, 2),
        "one eye": (0, 1), "neighbours only": (0, 4),
    }  # fmt: skip
    for case, names in cases.items():
        source = TarSource(_tar(tmp_path / f"{case}.tar", [(name, name.encode()) for name in names]))
        causes = [diagnose(example, None) for example in examples(source)]
        assert (causes.count(None), len(causes) - causes.count(None)) == expected[case], (case, causes)
        sound = [e for e, cause in zip(examples(source), causes, strict=True) if cause is None]
        assert all(e["image"][:-3] == e["captions"][0][:-3] for e in sound)
    source = TarSource(str(tmp_path / "two eyes.tar"))
    assert diagnose(source.fetch(0), None)[1].endswith("name its picture by ?image=left.png")
    eyes = examples(TarSource(str(tmp_path / "two eyes.tar"), image_members=["right.png"]))
    assert [e["image"] for e in eyes] == [b"1.right.png"]


def _folder(name: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = tarfile.DIRTYPE
    return info


def _causes(source) -> list[str]:
    return [example["cause"].decode() for example in in_graph(source)]


@pytest.mark.parametrize("random_access", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_torn_and_empty_shards(tmp_path, random_access):
    whole = write_shard(tmp_path / "whole.tar", [img2dataset_sample(i) for i in range(6)])
    data = Path(whole).read_bytes()
    with tarfile.open(whole) as tar:
        third = [member for member in tar if member.name.startswith("000000002")]
    cuts = {
        "in image": third[0].offset_data + 10,
        "in header": third[1].offset + 100,
        "between members": third[1].offset,
        "after the image and text": third[2].offset if third[2].name.endswith("txt") else third[1].offset,
    }
    for name, cut in cuts.items():
        (tmp_path / f"{name}.tar").write_bytes(data[:cut])
        source = TarSource(str(tmp_path / f"{name}.tar"), random_access=random_access)
        causes = _causes(source)
        # The samples before the tear, and one record that stands for what is lost.
        assert causes[:2] == ["", ""] and causes[-1] == "torn_shard" and 3 <= len(causes) <= 4, name
        assert source.locate(source.size - 1) == (str(tmp_path / f"{name}.tar"), source.size - 1)
    (tmp_path / "nothing.tar").write_bytes(b"")
    assert _causes(TarSource(str(tmp_path / "nothing.tar"), random_access=random_access)) == ["empty_shard"]
    write_shard(tmp_path / "no samples.tar", [])
    assert _causes(TarSource(str(tmp_path / "no samples.tar"), random_access=random_access)) == ["empty_shard"]
    (tmp_path / "garbage.tar").write_bytes(b"garbage" * 1000)
    assert _causes(TarSource(str(tmp_path / "garbage.tar"), random_access=random_access)) == ["torn_shard"]


def test_the_index_is_kept_and_renewed(shards, tmp_path, monkeypatch):
    folder = tmp_path / "elsewhere"
    scans = []
    original = TarSource._scan
    monkeypatch.setattr(TarSource, "_scan", lambda self, file: scans.append(file.name) or original(self, file))
    first = TarSource(str(shards / "*.tar"), index_dir=str(folder))
    again = TarSource(str(shards / "*.tar"), index_dir=str(folder))
    assert len(scans) == 3 and first.fingerprint == again.fingerprint
    write_shard(shards / "00001.tar", [img2dataset_sample(n) for n in (70, 71)])
    changed = TarSource(str(shards / "*.tar"), index_dir=str(folder))
    assert scans[3:] == [str(shards / "00001.tar")] and changed.size == 11
    assert changed.fingerprint != first.fingerprint
    (folder / sorted(p.name for p in folder.iterdir())[0]).write_bytes(b"torn")
    assert TarSource(str(shards / "*.tar"), index_dir=str(folder)).size == 11
    with pytest.raises(ValueError, match="name an index_dir"):
        TarSource(str(shards / "*.tar"), index_dir="/proc/nowhere")


def test_progress_is_shown(shards, capsys, monkeypatch):
    times = iter(range(0, 1000, 3))
    monkeypatch.setattr("siglip_tf.data.sources.shards.counts.time.monotonic", lambda: next(times))
    TarSource(str(shards))
    assert "Indexing shards: 2/3, " in capsys.readouterr().err


def test_missing_shards(tmp_path):
    with pytest.raises(ValueError, match="Expected the paths of shards. Received: '.*x-00007.tar'"):
        TarSource(str(tmp_path / "x-00007.tar"))
    with pytest.raises(ValueError, match="no file matches"):
        TarSource(str(tmp_path))
