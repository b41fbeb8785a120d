"""Readers on small sets in the published layouts: nothing lost, order fixed, faults named."""

import json

import numpy as np
import pytest
import tensorflow as tf

from siglip_tf.evaluation import readers
from siglip_tf.evaluation.image_set import from_examples, pad_labels
from siglip_tf.evaluation.readers import XM3600_LANGUAGES, read_names
from siglip_tf.evaluation.templates import TEMPLATES, read_templates
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
    with pytest.raises(ValueError, match=r"COCO_val2014_\d+.jpg is in none of"):
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


def test_flickr_without_captions(tmp_path):
    with pytest.raises(ValueError, match=r"Expected dataset_flickr30k.json, results\*.token or captions.txt"):
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
