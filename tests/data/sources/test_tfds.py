"""TFDS data sets by its own mocking, and a real builder made here, in both of its random-access forms."""

import numpy as np
import pytest
import tensorflow_datasets as tfds

from siglip_tf.data.sources.tfds import open_tfds
from tests.data.sources.reading import in_graph, same

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


class TinyPairs(tfds.core.GeneratorBasedBuilder):
    """Three pictures in two splits, with nested captions, a label, and boxes that have labels of their own."""

    VERSION = tfds.core.Version("1.2.3")

    def _info(self):
        features = {
            "image": tfds.features.Image(encoding_format="png"),
            "image/filename": tfds.features.Text(),
            "captions": tfds.features.Sequence({"id": np.int64, "text": tfds.features.Text()}),
            "label": tfds.features.ClassLabel(names=["tabby_cat", "dog"]),
            "objects": tfds.features.Sequence({"label": tfds.features.ClassLabel(num_classes=3)}),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(3), "test": self._generate_examples(1)}

    def _generate_examples(self, count):
        for i in range(count):
            captions = [{"id": k, "text": f"{k} says {i}"} for k in range(i)]
            image = np.full((4, 4, 3), i, np.uint8)
            yield i, {"image": image, "image/filename": f"{i}.png", "captions": captions, "label": i % 2, "objects": []}


@pytest.fixture(scope="module", params=["tfrecord", "array_record"])
def data_dir(request, tmp_path_factory):
    folder = str(tmp_path_factory.mktemp(request.param))
    TinyPairs(data_dir=folder, file_format=request.param).download_and_prepare()
    return folder


def test_a_real_builder(data_dir):
    source = open_tfds("tiny_pairs", data_dir=data_dir)
    read = sorted(in_graph(source), key=lambda example: example["id"])
    assert [example["id"] for example in read] == [b"0.png", b"1.png", b"2.png"]
    assert [example["image"][:4] for example in read] == [b"\x89PNG"] * 3
    assert [c.decode() for c in read[2]["captions"]] == ["0 says 2", "1 says 2"]
    assert read[0]["captions"].tolist() == [] and [int(e["label"]) for e in read] == [0, 1, 0]
    assert source.class_names == ["tabby_cat", "dog"] and source.name == "tfds:tiny_pairs/1.2.3 (train)"
    assert all(same(source.fetch(i), example) for i, example in enumerate(in_graph(source)))
    assert source.locate(2)[1] == 2
    assert open_tfds("tiny_pairs", "test", data_dir=data_dir).size == 1


def test_class_names_as_captions_and_wrong_names(data_dir):
    with pytest.raises(ValueError, match=r"has the splits \['test', 'train'\]. Received: 'validation'"):
        open_tfds("tiny_pairs", "validation", data_dir=data_dir)
    with pytest.raises(ValueError, match="has no feature 'title'. Its features: captions/id, captions/text"):
        open_tfds("tiny_pairs", data_dir=data_dir, captions="title")


@pytest.mark.parametrize(("name", "template"), [("imagenet2012", "a photo of a {}"), ("imagenet_v2", "{}")])
def test_mocked_labels(name, template):
    with tfds.testing.mock_data(num_examples=5):
        source = open_tfds(name, "test" if name == "imagenet_v2" else "train", template=template)
        read = in_graph(source)
    assert source.size == 5 and len(source.class_names) == 1000
    for example in read:
        spoken = source.class_names[example["label"]].replace("_", " ")
        assert example["captions"].tolist() == [template.format(spoken).encode()]
        assert example["image"][:2] == b"\xff\xd8"


def test_mocked_captions():
    """TFDS draws the parts of a nested sequence in different lengths, which it then refuses: they are given."""

    def serialized(builder, split, **_):
        del split
        examples = []
        for i in range(3):
            captions = [{"id": k, "text": f"{k} says {i}"} for k in range(5)]
            content = {"image": np.full((8, 8, 3), i, np.uint8), "image/filename": f"{i}.jpg", "image/id": i}
            examples.append(builder.info.features.serialize_example({**content, "captions": captions, "objects": []}))
        return examples

    with tfds.testing.mock_data(as_data_source_fn=serialized):
        source = open_tfds("coco_captions")
        read = in_graph(source)
    assert source.class_names is None and [example["id"] for example in read] == [b"0.jpg", b"1.jpg", b"2.jpg"]
    assert [e["captions"].tolist() for e in read] == [[f"{k} says {i}".encode() for k in range(5)] for i in range(3)]
    assert all(example["image"][:2] == b"\xff\xd8" for example in read)
