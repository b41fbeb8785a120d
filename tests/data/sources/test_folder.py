"""Tables of captions in all their forms, and folders of classes."""

import csv
import gzip
import json
import os
import tarfile

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import tensorflow as tf

from siglip_tf.data import ImagePreprocessing
from siglip_tf.data.order.bad_records import BadRecordReport, Explainer
from siglip_tf.data.sources.folders.source import FolderSource
from siglip_tf.data.sources.opening import open_source
from tests.data.memory_source import encode
from tests.data.sources.reading import in_graph, same

ROWS = [
    {"image": "a.png", "caption": 'a "quoted", comma\u2028and line', "label": 3, "language": "en", "split": "train"},
    {"image": "b.png", "caption": "ein Hund", "label": 5, "language": "de", "split": "test"},
    {"image": "a.png", "caption": "again", "label": 3, "language": "fr", "split": "train"},
]


def _images(folder, *names):
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(encode(number))


def _write(folder, kind: str, rows=ROWS) -> str:
    path = folder / f"captions.{kind}"
    if kind == "jsonl":
        path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n\n")
    elif kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0], delimiter="\t" if kind == "tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return str(path)


@pytest.mark.parametrize("kind", ["jsonl", "csv", "tsv", "parquet"])
def test_tables_hold_the_same(tmp_path, kind):
    _images(tmp_path, "a.png", "b.png")
    path = _write(tmp_path, kind)
    for where in (path, str(tmp_path)):
        source = FolderSource(where)
        first, second = read = in_graph(source)
        assert first["id"] == b"a.png" and first["image"] == encode(0) and first["label"] == 3
        assert [c.decode() for c in first["captions"]] == [ROWS[0]["caption"], "again"]
        assert first["language"].tolist() == [b"en", b"fr"]
        assert second["captions"].tolist() == [b"ein Hund"] and source.languages == ["de", "en", "fr"]
        assert all(same(example, source.fetch(i)) for i, example in enumerate(read))
        assert source.locate(1) == (str(tmp_path / "b.png"), 0)
    assert FolderSource(path, split="test").size == 1
    assert FolderSource(path).fingerprint == source.fingerprint != FolderSource(path, split="test").fingerprint


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_lists_of_captions(tmp_path, kind):
    rows = [{"file_name": "x/a.png", "captions": ["one", "two"]}, {"file_name": "b.png", "captions": "[odd"}]
    if kind == "csv":
        rows[0]["captions"] = json.dumps(rows[0]["captions"])
    _images(tmp_path, "x/a.png", "b.png")
    first, second = in_graph(FolderSource(_write(tmp_path, kind, rows)))
    assert first["captions"].tolist() == [b"one", b"two"] and second["captions"].tolist() == [b"[odd"]
    assert "label" not in first and "language" not in first


def test_splits_by_hash_are_disjoint_and_whole(tmp_path):
    rows = [{"image": f"{i}.png", "caption": "c"} for i in range(400)]
    path = _write(tmp_path, "csv", rows)
    parts = [FolderSource(path, split=split) for split in ("train", "validation", "test")]
    names = [{part.locate(i)[0] for i in range(part.size)} for part in parts]
    assert sum(map(len, names)) == len(set.union(*names)) == 400
    np.testing.assert_allclose([len(n) / 400 for n in names], [0.9, 0.05, 0.05], atol=0.03)


def test_classes_by_subfolder(tmp_path):
    _images(tmp_path, "cat/1.png", "cat/2.jpg", "dog/1.png", "dog/notes.txt", ".hidden/1.png")
    source = FolderSource(str(tmp_path), template="a photo of a {}")
    read = in_graph(source)
    assert source.class_names == ["cat", "dog"] and [int(e["label"]) for e in read] == [0, 0, 1]
    assert [e["captions"].tolist() for e in read] == [[b"a photo of a cat"]] * 2 + [[b"a photo of a dog"]]


def test_named_labels_mean_the_same_in_each_split(tmp_path):
    rows = [
        {"image": "1.png", "label": "zebra", "split": "train"},
        {"image": "2.png", "label": "ape", "split": "test"},
        {"image": "3.png", "label": "zebra", "split": "test"},
    ]
    _images(tmp_path, "1.png", "2.png", "3.png")
    path = _write(tmp_path, "csv", rows)
    assert [int(e["label"]) for e in in_graph(FolderSource(path, split="train"))] == [1]
    test = FolderSource(path, split="test")
    assert [int(e["label"]) for e in in_graph(test)] == [0, 1] and test.class_names == ["ape", "zebra"]
    assert [e["captions"].tolist() for e in in_graph(test)] == [[b"ape"], [b"zebra"]]


def test_missing_files_and_captions_are_seen(tmp_path):
    _images(tmp_path, "b.png")
    rows = [{"image": "gone.png", "caption": "x"}, {"image": "b.png", "caption": None}]
    source = FolderSource(_write(tmp_path, "jsonl", rows))
    assert source.fetch(0)["image"] == b"" and source.fetch(0)["captions"].tolist() == [b"x"]
    assert source.fetch(1)["captions"].tolist() == []
    with pytest.raises(tf.errors.NotFoundError):
        list(tf.data.Dataset.range(1).map(source.read))


def test_invalid_unicode_of_json_stays_invalid(tmp_path):
    _images(tmp_path, "b.png")
    (tmp_path / "c.jsonl").write_text('{"image": "b.png", "caption": "half \\ud83d"}\n')
    captions = in_graph(FolderSource(str(tmp_path)))[0]["captions"]
    with pytest.raises(UnicodeDecodeError):
        captions[0].decode()


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([{"picture": "a", "caption": "b"}], {}, "Expected a column one of image, file_name, .* Its columns: picture"),
        ([{"image": "a", "words": "b"}], {}, "Expected a column one of captions, caption"),
        ([{"image": "a", "caption": "b"}], {"caption_column": "c"}, "Expected a column 'c'"),
        ([{"image": "", "caption": "b"}], {}, "line 1: names no image"),
        ([{"image": "a", "label": "b"}], {"template": "a photo"}, "Expected a template with {} for the name"),
        (
            [{"image": "a", "caption": "b", "split": "x"}],
            {"split": "y"},
            r"must be one of \['x'\].*Received: 'y'",
        ),
        ([{"image": "a", "captions": ["b", "c"], "language": ["en"]}], {}, "line 1: has 2 captions and 1 languages"),
    ],
)
def test_wrong_tables(tmp_path, rows, options, message):
    with pytest.raises(ValueError, match=message):
        FolderSource(_write(tmp_path, "jsonl", rows), **options)


def test_wrong_folders(tmp_path):
    with pytest.raises(ValueError, match="holds no rows"):
        FolderSource(str(tmp_path))
    with pytest.raises(ValueError, match="Expected a folder of images or a table"):
        FolderSource(str(tmp_path / "nowhere"))
    (tmp_path / "a.jsonl").write_text("[1]\n")
    with pytest.raises(ValueError, match="line 1: expected an object"):
        FolderSource(str(tmp_path))
    (tmp_path / "a.jsonl").write_text("{\n")
    with pytest.raises(ValueError, match="a.jsonl, line 1: Expecting"):
        FolderSource(str(tmp_path))
    (tmp_path / "b.csv").write_bytes(b"image,caption\na,\xff\n")
    with pytest.raises(ValueError, match="holds several tables"):
        FolderSource(str(tmp_path))
    with pytest.raises(ValueError, match="is not UTF-8"):
        FolderSource(str(tmp_path / "b.csv"))


def test_broken_rows_are_records_that_count(tmp_path):
    """read = used + skipped, in training and in evaluation; every skipped row is named by its file and line."""
    folder = tmp_path / "table"
    _images(folder, *(f"{i}.png" for i in range(8)))
    lines = ["image,caption,split", *(f"{i}.png,number {i},{'test' if i > 5 else 'train'}" for i in range(8))]
    lines[2] += ",more"
    lines[4] = ",no image,train"
    lines[6] = "5.png,caf\xe9,train"
    (folder / "t.csv").write_bytes("\n".join(lines).encode("latin-1"))
    source = FolderSource(str(folder))
    assert source.size == 8 and "2 rows cannot be used and count as broken records; the first: " in source.notes[-1]
    assert source.notes[-1].count("t.csv, line 3: 4 cells") == 1
    report = BadRecordReport(str(tmp_path / "bad.jsonl"))
    explain = Explainer(report, ImagePreprocessing(16), certain=False)
    causes = [explain(source, index) for index in range(source.size)]
    assert [cause for cause in causes if cause] == ["not_utf8", "broken_row", "missing_image"]
    entries = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
    assert [(entry["shard"], entry["offset"]) for entry in entries[1:]] == [
        (str(folder / "t.csv"), 3),
        (str(folder / "t.csv"), 5),
    ]
    used = list(tf.data.Dataset.range(source.size).map(source.read).ignore_errors())
    assert len(used) == 6  # the caption that is not UTF-8 is found later
    parts = [FolderSource(str(folder), split=split).size for split in ("train", "test")]
    assert parts == [6, 4]  # nobody knows the split of the two: each counts them
    assert FolderSource(str(folder)).fingerprint == source.fingerprint
    (tmp_path / "texts").mkdir()
    _images(tmp_path / "texts", "x/0.png", "x/1.png", "x/2.png")
    for name, text in (("0", '{"caption": "a"}'), ("1", '{"caption": '), ("2", "[]")):
        (tmp_path / f"texts/x/{name}.json").write_text(text)
    source = FolderSource(str(tmp_path / "texts"))
    assert source.size == 3 and source.locate(2) == (str(tmp_path / "texts/x/1.json"), 0)
    assert explain(source, 2) == "broken_row" and explain(source, 0) is None


def test_names_that_are_not_utf8(tmp_path):
    """A name is any bytes: such a file is read, a missing one is missing, and no other of its folder is refused."""
    _images(tmp_path, "cat/a.png", "dog/b.png")
    name = os.fsencode(tmp_path / "cat") + b"/\xff.png"
    with open(name, "wb") as file:
        file.write(encode(7))
    source = open_source(str(tmp_path))
    assert source.size == 3 and [source.fetch(i)["image"] for i in (0, 1)] == [encode(0), encode(7)]
    assert in_graph(source)[1]["id"] == b"cat/\xff.png"
    os.remove(name)
    assert source.fetch(1)["image"] == b"" and source.fetch(1)["captions"].tolist() == [b"cat"]


def test_shards_of_several_kinds_are_not_chosen_among(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"jpg": [encode(0)], "caption": ["a"]}), tmp_path / "0.parquet")
    with tarfile.open(tmp_path / "1.tar", "w"):
        pass
    with pytest.raises(ValueError, match=r"several kinds \(tar, parquet\): choose by .*kind=tar"):
        open_source(str(tmp_path))
    assert open_source(f"{tmp_path}?kind=parquet").size == 1
    # img2dataset's Parquet file of metadata beside a shard is no shard; a gzip file named .tar says what it is.
    pyarrow.parquet.write_table(pyarrow.table({"url": ["x"], "caption": ["a"]}), tmp_path / "0.parquet")
    (tmp_path / "1.tar").write_bytes(gzip.compress(b"x" * 2000))
    source = open_source(str(tmp_path))
    assert source.size == 1 and source.fetch(0)["detail"] == b"it is not a tar archive, but a gzip archive"
