"""Readers on small sets in the published layouts: nothing lost, order fixed, faults named."""

import io
import json
import tarfile

import numpy as np
import pytest
import tensorflow as tf

from siglip_tf.evaluation import readers
from siglip_tf.evaluation.image_set import from_examples, pad_labels
from siglip_tf.evaluation.readers import XM3600_LANGUAGES
from siglip_tf.evaluation.source_sets import source_set
from siglip_tf.evaluation.templates import TEMPLATES, read_templates
from siglip_tf.evaluation.text_files import read_names
from tests.evaluation.layouts import write_coco, write_folder, write_xm3600
from tests.example_model import pictures


def read_all(images):
    examples = list(images.examples.as_numpy_iterator())
    assert [example["id"].decode() for example in examples] == list(images.ids)
    return [example["image"] for example in examples]


def test_labelled_folder(tmp_path):
    write_folder(tmp_path, {"zebra": 3, "air_freshener": 2})
    images = readers.labelled_folder(str(tmp_path))
    assert images.class_names == ("air_freshener", "zebra")
    assert images.ids == (
        "air_freshener/0.PNG",
        "air_freshener/more/1.jpg",
        "zebra/0.PNG",
        "zebra/2.PNG",
        "zebra/more/1.jpg",
    )
    np.testing.assert_array_equal(images.labels, [0, 0, 1, 1, 1])
    assert read_all(images)[1] == (tmp_path / "air_freshener/more/1.jpg").read_bytes()
    assert readers.labelled_folder(str(tmp_path), ["b", "a"]).class_names == ("b", "a")
    with pytest.raises(ValueError, match=r"2 classes \(air_freshener, ...\), 1 names"):
        readers.labelled_folder(str(tmp_path), ["b"])
    with pytest.raises(ValueError, match="holds no folders with images"):
        readers.labelled_folder(str(tmp_path / "empty"))
    with pytest.raises(ValueError, match="is not a folder"):
        readers.labelled_folder(str(tmp_path / "nowhere"))


def test_objectnet_loses_its_border(tmp_path):
    (tmp_path / "images" / "air_freshener").mkdir(parents=True)
    (tmp_path / "mappings").mkdir()
    (tmp_path / "mappings/folder_to_objectnet_label.json").write_text('{"air_freshener": "Air freshener"}')
    inside = np.random.default_rng(0).integers(0, 256, (7, 9, 3), np.uint8)
    framed = np.pad(inside, ((1, 1), (1, 1), (0, 0)))
    framed[[0, -1]] = framed[:, [0, -1]] = (255, 0, 0)
    (tmp_path / "images/air_freshener/a.png").write_bytes(tf.io.encode_png(framed).numpy())
    images = readers.objectnet(str(tmp_path))
    assert images.class_names == ("Air freshener",)
    np.testing.assert_array_equal(tf.io.decode_png(read_all(images)[0]), inside)


def test_coco_by_both_files(tmp_path):
    write_coco(tmp_path)
    karpathy, own = readers.coco(str(tmp_path)), readers.coco(str(tmp_path), "val2014")
    assert len(karpathy) == len(own) == 4  # two of six belong to "restval", one has no captions
    assert karpathy.captions == own.captions
    assert [len(captions) for captions in own.captions] == [5, 6, 6, 5]
    assert own.captions[0][0] == "caption 0 of picture 0"
    assert read_all(karpathy) == read_all(own)
    with pytest.raises(ValueError, match="has no split 'train', only"):
        readers.coco(str(tmp_path), "train")
    with pytest.raises(ValueError, match="annotations/captions_val2017.json"):
        readers.coco(str(tmp_path), "val2017")
    next((tmp_path / "val2014").iterdir()).unlink()
    three = readers.coco(str(tmp_path))
    assert len(three) == len(three.captions) == len(read_all(three)) == 3
    assert "1 of 4 images are left out (COCO_val2014_" in three.notes[0]
    for file in (tmp_path / "val2014").iterdir():
        file.unlink()
    with pytest.raises(ValueError, match=r"none of its 4 image files can be read; .*jpg is not there"):
        readers.coco(str(tmp_path))


@pytest.mark.parametrize("layout", ["karpathy", "token", "kaggle"])
def test_flickr(layout, tmp_path):
    data = pictures(3)
    folder = tmp_path / ("Images" if layout == "kaggle" else "flickr30k-images")
    folder.mkdir()
    for i, picture in enumerate(data):
        (folder / f"100{i}.jpg").write_bytes(picture)
    captions = [[f'A man, "{j}", in picture {i}.' for j in range(5)] for i in range(3)]
    if layout == "karpathy":
        entries = [
            {
                "filename": f"100{i}.jpg",
                "split": ("test", "train", "test")[i],
                "sentences": [{"raw": c} for c in captions[i]],
            }
            for i in range(3)
        ]
        (tmp_path / "dataset_flickr30k.json").write_text(json.dumps({"images": entries}))
        captions, data = captions[::2], data[::2]
    elif layout == "token":
        lines = [f"100{i}.jpg#{j}\t{c}" for i in range(3) for j, c in enumerate(captions[i])]
        (tmp_path / "results_20130124.token").write_text("\n".join(lines))
    else:
        lines = ["image,caption"]
        lines += [f'100{i}.jpg,"{c.replace(chr(34), chr(34) * 2)}"' for i in range(3) for c in captions[i]]
        (tmp_path / "captions.txt").write_text("\n".join(lines))
    images = readers.flickr(str(tmp_path))
    assert images.captions == tuple(tuple(several) for several in captions)
    assert read_all(images) == data


# str.splitlines cuts at these; none of them ends a line of a file.
CUTS = "A man\u2028in\u0085a\x0chat\x0b.\x1c"


def test_captions_are_whole(tmp_path):
    """Files as they are published, written by hand: the expected captions are Python's own csv and json modules'."""
    tables = {
        "captions.txt": ("image,caption\r\na.jpg,{0}\r\n", [CUTS]),
        "captions.csv": ('\ufeffimage,caption\na.jpg,"A man\nin a ""hat"""\n\n', ['A man\nin a "hat"']),
        "results.csv": ('image_name| comment_number| comment\na.jpg| 0| "Two" guys\na.jpg| 1   Bad', ['"Two" guys']),
        "k/captions.txt": ("image_name,comment_number,comment\na.jpg,0, Two guys, {0}\n", [f"Two guys, {CUTS}"]),
        "long/captions.txt": ("image,caption\na.jpg," + "x" * 200_000, ["x" * 200_000]),
        "r.token": ("a.jpg#0\t{0}\r\na.jpg#1\ttwo\ttabs\nno tab\n", [CUTS, "two\ttabs"]),
    }
    for number, (name, (text, wanted)) in enumerate(tables.items()):
        root = tmp_path / str(number)
        (root / "Images").mkdir(parents=True)
        (root / "Images/a.jpg").write_bytes(pictures(1)[0])
        (root / name.rpartition("/")[2]).write_bytes(text.replace("{0}", CUTS).encode())
        images = readers.flickr(str(root))
        assert images.captions == (tuple(caption.strip() for caption in wanted),), name
        assert len(images.notes) == (name in ("results.csv", "r.token"))
    (tmp_path / "x/images").mkdir(parents=True)
    (tmp_path / "x/images/k.jpg").write_bytes(pictures(1)[0])
    entry = {"image/key": "k", "en": {"caption": [CUTS]}}
    (tmp_path / "x/captions.jsonl").write_text("\ufeff" + json.dumps(entry, ensure_ascii=False) + "\n")
    assert readers.xm3600(str(tmp_path / "x")).captions is None
    assert readers.xm3600(str(tmp_path / "x")).languages == {"en": ((CUTS,),)}


def test_faults_of_caption_files_name_the_file_and_the_line(tmp_path):
    (tmp_path / "Images").mkdir()
    for name, text, says in (
        ("captions.txt", "a.jpg,A man\n", "expected a first line that names the columns"),
        ("captions.txt", 'image,caption\na.jpg,"A man\nb.jpg,two\n', "line 2: a quotation mark opens"),
        ("captions.txt", "image,caption\n", "holds no row"),
        ("captions.txt", b"image,caption\na.jpg,\xff\n", "captions.txt is not UTF-8 text"),
        ("captions.txt", "image,caption\na.jpg,A man\n", "none of its 1 image files"),
        ("r.token", "nothing\n", "holds no line of"),
        ("dataset_flickr8k.json", "{", "dataset_flickr8k.json is not JSON"),
        ("dataset_flickr8k.json", '{"images": [{}]}', "lacks 'split'; expected Karpathy's"),
        ("dataset_flickr8k.json", "[]", "is of another shape"),
    ):
        file = tmp_path / name
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(ValueError, match=says):
            readers.flickr(str(tmp_path))
        file.unlink()
    for text, says in (('{"image/key": "k"}\n{', "line 2, is not JSON"), ("[1]", "line 1: expected a JSON object")):
        (tmp_path / "captions.jsonl").write_text(text)
        with pytest.raises(ValueError, match=says):
            readers.xm3600(str(tmp_path))


def test_hidden_and_foreign_files_of_labelled_folders(tmp_path):
    write_folder(tmp_path, {"a": 3, "b": 1})
    (tmp_path / ".ipynb_checkpoints").mkdir()
    for name in (".ipynb_checkpoints/x.png", "a/._0.png"):
        (tmp_path / name).write_bytes(pictures(1)[0])
    assert len(readers.labelled_folder(str(tmp_path))) == 4
    (tmp_path / "c").mkdir()
    (tmp_path / "c/phone.HEIC").write_bytes(b"heic")
    (tmp_path / "a/gone.jpg").symlink_to("/nowhere/x.jpg")
    images = readers.labelled_folder(str(tmp_path))
    assert images.class_names == ("a", "b")
    assert images.labels.tolist() == [0, 0, 0, 1]
    assert "c: 1 pictures of other kinds (.heic) are left out" in images.notes[0]
    assert "1 of 5 images are left out (a/gone.jpg: a link to a file that is not there)" in images.notes[1]


def test_own_sources(tmp_path):
    """A table of pictures, and the same as a tar of the webdataset layout: captions, labels, faults counted."""
    data = pictures(6)
    for i, picture in enumerate(data):
        (tmp_path / f"{i}.png").write_bytes(picture)
    rows = [f'{i}.png,"picture {i}, {"odd" if i % 2 else "even"}"' for i in range(6)]
    table = tmp_path / "table.csv"
    table.write_text("\n".join(["image,caption", *rows, "gone.png,not there"]))
    images = source_set(str(table))
    assert images.captions == tuple((f"picture {i}, {'odd' if i % 2 else 'even'}",) for i in range(6))
    assert images.labels is None
    assert read_all(images) == data
    assert "1 of 7 images are left out" in images.notes[0]
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        for i, picture in enumerate(data):
            for name, content in ((f"{i}.png", picture), (f"{i}.txt", ("odd", "even")[i % 2].encode())):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    images = source_set(str(tmp_path / "shard.tar"))
    assert images.class_names == ("even", "odd")
    assert images.labels.tolist() == [1, 0] * 3
    assert images.notes == ("it has no labels: its 2 captions are the classes",)
    assert source_set(str(tmp_path / "shard.tar"), class_names=["odd", "even"]).labels.tolist() == [0, 1] * 3
    with pytest.raises(ValueError, match="'even' that is none"):
        source_set(str(tmp_path / "shard.tar"), class_names=["odd", "more"])
    table.write_text("image,caption\ngone.png,not there")
    with pytest.raises(ValueError, match="none of its 1 records can be used"):
        source_set(str(table))


def test_flickr_without_captions(tmp_path):
    with pytest.raises(
        ValueError, match=r"Expected dataset_flickr30k.json, results\*.token, captions.txt or results.csv"
    ):
        readers.flickr(str(tmp_path))


def test_xm3600(tmp_path):
    write_xm3600(tmp_path)
    images = readers.xm3600(str(tmp_path))
    assert tuple(images.languages) == XM3600_LANGUAGES
    assert len(XM3600_LANGUAGES) == 36
    assert images.languages["mi"][-1] == ()
    assert images.languages["quz"][0] == ("quz 0 صورة 0",)
    assert read_all(images) == pictures(4)
    with pytest.raises(ValueError, match=r"captions.jsonl and .*images/<key>.jpg"):
        readers.xm3600(str(tmp_path / "images"))


def test_subset_limit_and_read(tmp_path):
    write_folder(tmp_path, {"a": 3, "b": 3})
    images = readers.labelled_folder(str(tmp_path))
    some = images.subset([1, 4, 5])
    assert read_all(some) == [read_all(images)[i] for i in (1, 4, 5)]
    assert some.labels.tolist() == [0, 1, 1]
    assert images.limit(2).labels.tolist() == [0, 1]
    assert images.limit(None) is images
    assert images.limit(100) is images
    assert images.read([5, 0, 5]) == [read_all(images)[i] for i in (5, 0, 5)]
    assert images.read([]) == []
    with pytest.raises(ValueError, match="rising indices"):
        images.subset([2, 1])


def test_from_examples_reads_without_decoding():
    examples = tf.data.Dataset.from_tensor_slices({"image": [b"x", b"y"], "id": ["1", "2"], "label": [3, 0]})
    examples = examples.map(lambda e: e | {"captions": tf.stack([e["id"], "text"])})
    images = from_examples("own", examples, "abcd")
    assert (images.ids, images.labels.tolist(), images.class_names) == (("1", "2"), [3, 0], tuple("abcd"))
    assert images.captions == (("1", "text"), ("2", "text"))
    assert read_all(images) == [b"x", b"y"]
    with pytest.raises(ValueError, match="no examples"):
        from_examples("own", examples.take(0))


def test_label_sets_are_padded():
    np.testing.assert_array_equal(pad_labels([[1, 2], [], [3]]), [[1, 2], [-1, -1], [3, -1]])
    np.testing.assert_array_equal(pad_labels([[], []]), [[-1], [-1]])
    np.testing.assert_array_equal(pad_labels([1, 0]), [1, 0])


def test_names_and_templates(tmp_path):
    file = tmp_path / "names.txt"
    file.write_text("\ufeffcat\n\n# a comment\n dog, wild \n", encoding="utf-8")
    assert read_names(str(file)) == ["cat", "dog, wild"]
    file.write_text('["a", "b"]')
    assert read_names(str(file)) == ["a", "b"]
    file.write_text("a {} of {}")
    with pytest.raises(ValueError, match="exactly one `{}`"):
        read_templates(str(file))
    file.write_text("ein Foto: {}")
    assert read_templates(str(file)) == ("ein Foto: {}",)
    assert all(template.count("{}") == 1 for several in TEMPLATES.values() for template in several)
    with pytest.raises(ValueError, match="no file and none of the template sets"):
        read_templates("nothing")
    for content, message in ((b"\xff\xfe", "not UTF-8"), (b"#\n", "holds no names"), (b"[1]", "list of strings")):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            read_names(str(file))
