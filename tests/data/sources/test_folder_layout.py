"""Layouts of folders as people and their tools leave them: read as they are meant, or refused by name."""

import gzip
import json
from pathlib import Path

import pytest

from siglip_tf.data.sources import FolderSource, open_source
from siglip_tf.data.sources.listing import is_image, walk
from tests.data.memory_source import encode
from tests.data.sources.reading import in_graph
from tools.search.index import File, scan

ROWS = [{"file_name": "a.png", "text": "a cat"}, {"file_name": "b.png", "text": "two dogs"}]
CSV = "file_name,text\na.png,a cat\nb.png,two dogs\n"


def fill(folder, files: dict) -> str:
    """Writes files by name; `None` is an image."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        content = encode(len(name)) if content is None else content
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(folder)


def captions(folder, **options) -> dict[str, list[str]]:
    """Captions by the record's name."""
    source = FolderSource(folder, **options)
    examples = [source.fetch(index) for index in range(source.size)]
    assert all(example["image"] for example in examples)
    return {bytes(e["id"]).decode(): [caption.decode() for caption in e["captions"]] for e in examples}


def test_one_table_in_all_its_spellings(tmp_path):
    """Names, cases and compressions of a table; every JSON layout; Flickr's and Kaggle's text files."""
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    coco = {
        "images": [{"id": 7, "file_name": "a.png"}, {"id": 9, "file_name": "b.png"}],
        "annotations": [{"image_id": 9, "caption": "two dogs"}, {"image_id": 7, "caption": "a cat"}],
    }
    karpathy = {
        "images": [
            {"filename": row["file_name"], "split": "train", "sentences": [{"raw": row["text"]}]} for row in ROWS
        ]
    }
    tables = {
        "metadata.jsonl": lines,
        "captions.ndjson": lines,
        "CAPTIONS.CSV": CSV,
        "captions.jsonl.gz": gzip.compress(lines.encode()),
        "captions.csv.gz": gzip.compress(CSV.encode()),
        "captions.txt": CSV,
        "x.TSV": CSV.replace(",", "\t"),
        "bom.csv": b"\xef\xbb\xbf" + CSV.encode(),
        "list.json": json.dumps(ROWS),
        "dict.json": json.dumps({row["file_name"]: row["text"] for row in ROWS}),
        "kohya.json": json.dumps({row["file_name"]: {"caption": row["text"]} for row in ROWS}),
        "keyed.json": json.dumps({str(i): row for i, row in enumerate(ROWS)}),
        "columns.json": json.dumps({key: [row[key] for row in ROWS] for key in ROWS[0]}),
        "pandas.json": json.dumps({key: {str(i): row[key] for i, row in enumerate(ROWS)} for key in ROWS[0]}),
        "wrapped.json": json.dumps({"version": 1, "data": ROWS}),
        "captions_train2017.json": json.dumps(coco),
        "dataset_coco.json": json.dumps(karpathy),
        "results.token": "a.png#0\ta cat\nb.png#0\ttwo dogs\n",
    }
    for name, content in tables.items():
        for place in ("", "images/"):
            folder = fill(tmp_path / place.strip("/") / name.replace(".", "_"), {name: content})
            fill(tmp_path / place.strip("/") / name.replace(".", "_"), {f"{place}{r['file_name']}": None for r in ROWS})
            assert captions(folder) == {"a.png": ["a cat"], "b.png": ["two dogs"]}, (name, place)
    folder = fill(tmp_path / "coco", {"annotations/captions_val2017.json": json.dumps(coco)})
    fill(tmp_path / "coco", {"val2017/a.png": None, "val2017/b.png": None})
    assert captions(folder) == {"val2017/a.png": ["a cat"], "val2017/b.png": ["two dogs"]}


def test_a_table_for_each_split(tmp_path):
    """Hugging Face's imagefolder: each table names the images of its own folder."""
    files = {f"{s}/{i}.png": None for s in ("train", "val", "test") for i in (1, 2)}
    for split in ("train", "val", "test"):
        rows = [{"file_name": f"{i}.png", "text": f"{split} {i}"} for i in (1, 2)]
        files[f"{split}/metadata.jsonl"] = "".join(json.dumps(row) + "\n" for row in rows)
    folder = fill(tmp_path / "d", files)
    fill(tmp_path / "d", {".ipynb_checkpoints/x.png": None, "train/.cache/y.png": None, "README.md": "data"})
    expected = {s: {f"{s}/{i}.png": [f"{s} {i}"] for i in (1, 2)} for s in ("train", "val", "test")}
    assert captions(folder) == {name: text for part in expected.values() for name, text in part.items()}
    for split, name in (("train", "train"), ("validation", "val"), ("val", "val"), ("test", "test")):
        assert captions(folder, split=split) == expected[name]
        assert open_source(f"{folder}?split={split}").size == 2
    (note,) = [note for note in FolderSource(folder).notes if "together" in note]
    assert "test, train, validation" in note and not FolderSource(folder, split="test").notes[1:]
    for name in ("train", "test"):
        fill(tmp_path / "files", {f"{name}.csv": CSV.replace("cat", name)})
    folder = fill(tmp_path / "files", {"a.png": None, "b.png": None, "train/c.png": None})
    with pytest.raises(ValueError, match="is in two splits, 'test' and 'train'"):
        FolderSource(folder)
    fill(tmp_path / "files", {"train.csv": CSV.replace("a.png", "train/c.png").replace("b.png", "d.png")})
    assert captions(folder, split="test") == {"a.png": ["a test"], "b.png": ["two dogs"]}
    (tmp_path / "d/val/metadata.jsonl").unlink()
    with pytest.raises(ValueError, match="val holds 2 images and no table"):
        FolderSource(str(tmp_path / "d"))


def test_texts_beside_images(tmp_path):
    """img2dataset's `files` output and kohya's: numbered folders are no classes."""
    files = {}
    for number in (0, 1, 10000):
        name = f"{number // 10000:05d}/{number:09d}"
        files |= {f"{name}.jpg": None, f"{name}.txt": f"caption {number}\n", f"{name}.json": '{"url": "x"}'}
    beside = {"00000_stats.json": '{"successes": 2}', "00000.parquet": b"metadata", "00001.parquet": b"metadata"}
    folder = fill(tmp_path / "files", {**files, **beside, "00000/x.jpg": None})
    read = captions(folder)
    assert read.pop("00000/x.jpg") == []
    assert read == {n: [f"caption {int(n[-13:-4])}"] for n in files if n.endswith("jpg")}
    assert FolderSource(folder).class_names is None
    folder = fill(tmp_path / "kohya", {"10_style/a.PNG": None, "10_style/a.caption": b"\xef\xbb\xbf1girl, hat"})
    assert captions(folder) == {"10_style/a.PNG": ["1girl, hat"]}
    folder = fill(tmp_path / "json", {"x/a.png": None, "x/a.json": '{"caption": "a hat"}'})
    assert captions(folder) == {"x/a.png": ["a hat"]}
    source = FolderSource(fill(tmp_path / "latin", {"x/a.png": None, "x/a.txt": b"caf\xe9"}))
    assert source.fetch(0)["captions"].tolist() == [b"caf\xe9"]


def test_classes(tmp_path):
    """Numbers, underscores, splits above, hidden folders, and formats that are not decoded."""
    source = FolderSource(fill(tmp_path / "digits", {f"{k}/a.png": None for k in range(11)}))
    assert source.class_names == [str(k) for k in range(11)]
    assert [int(e["label"]) for e in in_graph(source)] == [0, 1, 10, *range(2, 10)]
    assert captions(str(tmp_path / "digits"))["10/a.png"] == ["10"]
    nested = {f"{s}/{c}/x/{i}.png": None for s in ("train", "val") for c in ("tabby_cat", "dog") for i in (1, 2)}
    folder = fill(tmp_path / "nested", {**nested, "train/.ipynb_checkpoints/1.png": None, "classes.txt": "a\nb"})
    fill(tmp_path / "nested", {"__MACOSX/train/dog/1.png": None, "train/dog/._1.png": b"fork"})
    source = FolderSource(folder, split="val")
    assert source.class_names == ["dog", "tabby_cat"] and source.size == 4
    assert set(map(tuple, captions(folder, split="train").values())) == {("dog",), ("tabby cat",)}
    # Search finds the same pictures, and a link to nothing as one that cannot be read.
    (tmp_path / "nested/train/dog/x/link.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "nested/train/dog/x/round").symlink_to(tmp_path / "nested")
    assert sum(is_image(name) for _, names in walk(folder) for name in names) == 9
    assert [file for file in scan(Path(folder)).values() if not file.size] == [File("train/dog/x/link.png", 0, 0)]
    source = FolderSource(fill(tmp_path / "heic", {"cat/a.png": None, "dog/a.heic": b"x", "dog/b.TIFF": b"x"}))
    assert source.class_names == ["cat", "dog"] and source.size == 3 and "2 images are in formats" in source.notes[0]
    assert FolderSource(fill(tmp_path / "one", {"x/a.png": None}), classes=True).class_names == ["x"]


def test_what_is_not_understood_is_refused_by_name(tmp_path):
    png = {"images/a.png": None, "images/b.png": None}
    cases = {
        "one class for everything is never meant": (png, "one folder 'images' of images and no captions"),
        "nested": ({f"all/{c}/a.png": None for c in "xy"}, "The classes may be x, y: name .*all"),
        "two levels": ({f"{t}/{c}/a.png": None for t in "pq" for c in "xy"}, r"nested class folders \(p/x, p/y, q/x"),
        "splits without captions": ({"train/a.png": None, "test/a.png": None}, "neither captions nor class folders"),
        "no captions": ({"a.png": None}, "holds 1 images without captions"),
        "workbook": (
            {**png, "captions.xlsx": b"PK"},
            "may hold the images' captions and are not understood: captions.xl",
        ),
        "text": ({**png, "notes.txt": "hello"}, "not understood: notes.txt.*kind=classes"),
        "odd json": ({**png, "captions.json": '{"a": 1}'}, "captions.json has no layout of captions"),
        "instances": (
            {**png, "x.json": '{"images": [], "annotations": [{"id": 1}]}'},
            "its annotations have no image_id and caption",
        ),
        "some texts": ({f"x/{i}.png": None for i in range(9)} | {"x/1.txt": "a"}, "1 of 9 images have a text"),
        "box annotations": ({"x/a.png": None, "x/a.json": '{"shapes": []}'}, "hold no captions"),
        "a class of arrays": (
            {"cat/a.png": None, "cow/b.png": None, "dog/a.npy": b"x"},
            "dog holds .*a.npy.* and no images",
        ),
        "two tables": ({"x/a.csv": CSV, "x/b.csv": CSV}, "x holds several tables"),
        "boxes of a class": (
            {"a/x.png": None, "b/x.png": None, "b/boxes.csv": "x,y\n1,2\n"},
            "boxes.csv names no images",
        ),
        "archives": ({"0.tar.gz": b"", "1.tar.gz": b""}, "2 compressed files .0.tar.gz.: decompress"),
        "shards below": ({"part/0.tar": b"", "part/1.tar": b""}, r"shards in subfolders .*name them as '.*/\*/\*.tar'"),
        "nothing": ({"README.md": "x"}, "holds no rows.*It holds README.md"),
        "addresses": ({"t.csv": "image,caption\nhttps://a.b/c.jpg,x\n"}, "download the images first"),
        "numbers": ({"t.csv": "image,label\na.png,3\n", "a.png": None}, "labels without names"),
        "two splits": (
            {"t.csv": "image,caption,split\na.png,x,train\na.png,y,test\n", "a.png": None},
            "is in two splits, 'train' and 'test'",
        ),
    }
    for name, (files, message) in cases.items():
        folder = fill(tmp_path / name, files)
        with pytest.raises(ValueError, match=message):
            open_source(folder)
