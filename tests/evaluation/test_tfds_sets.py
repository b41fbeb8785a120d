"""TFDS sets: a real builder made here, and TFDS's own mocks of the sets that the paper uses."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from siglip_tf.evaluation.tfds_sets import tfds_set
from tests.example_model import pictures

PICTURES = pictures(7)


class SiglipTestShapes(tfds.core.GeneratorBasedBuilder):
    """Labels, label sets and captions as imagenet2012, imagenet2012_real and coco_captions have them."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        label = tfds.features.ClassLabel(names=["circle", "square", "star"])
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(),
                    "label": label,
                    "captions": tfds.features.Sequence({"text": tfds.features.Text(), "id": np.int64}),
                    "file_name": tfds.features.Text(),
                }
            ),
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(0, 4), "test": self._generate_examples(4, 7)}

    def _generate_examples(self, first, last):
        for i in range(first, last):
            captions = [{"text": f"caption {j} of {i}", "id": j} for j in range(1 + i % 2)]
            image = np.asarray(tf.io.decode_image(PICTURES[i]))
            yield i, {"image": image, "label": i % 3, "captions": captions, "file_name": f"{i}.png"}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("tfds"))
    tfds.builder("siglip_test_shapes", data_dir=folder).download_and_prepare()
    return folder


def test_a_real_builder(data_dir):
    images = tfds_set("siglip_test_shapes", data_dir=data_dir)
    assert images.name == "siglip_test_shapes-test"
    assert sorted(images.ids) == ["4.png", "5.png", "6.png"]
    assert images.class_names == ("circle", "square", "star")
    for example, name, label, captions in zip(
        images.examples.as_numpy_iterator(), images.ids, images.labels, images.captions, strict=True
    ):
        i = int(name[0])
        assert example["id"].decode() == name
        assert label == i % 3
        assert captions == tuple(f"caption {j} of {i}" for j in range(1 + i % 2))
        np.testing.assert_array_equal(tf.io.decode_image(example["image"]), tf.io.decode_image(PICTURES[i]))
    assert len(tfds_set("siglip_test_shapes", "train", data_dir, ["a", "b", "c"])) == 4


def test_faults_are_named(data_dir, tmp_path):
    with pytest.raises(ValueError, match="knows no 'siglip_no_such_set'"):
        tfds_set("siglip_no_such_set")
    with pytest.raises(ValueError, match="is not prepared in"):
        tfds_set("siglip_test_shapes", "test", str(tmp_path))
    with pytest.raises(ValueError, match="has 3 classes, 2 names were given"):
        tfds_set("siglip_test_shapes", data_dir=data_dir, class_names=["a", "b"])
    with pytest.raises(ValueError, match="no feature `image`"):
        tfds_set("imdb_reviews")


@pytest.mark.parametrize(
    ("name", "classes", "labels"),
    [
        ("imagenet2012", 1000, 1),
        ("cifar100", 100, 1),
        ("imagenet_v2", 1000, 1),
        ("imagenet2012_real", 1000, 2),
    ],
)
def test_the_papers_sets(name, classes, labels):
    """TFDS's mocks have each set's own features, with random content."""
    names = [f"class {i}" for i in range(1000)] if classes == 1000 else None
    with tfds.testing.mock_data(num_examples=5):
        images = tfds_set(name, class_names=names)
        pixels = [tf.io.decode_image(example["image"]) for example in images.examples]
    assert len(images) == len(pixels) == 5
    assert pixels[0].shape[2] == 3
    assert len(images.class_names) == classes
    assert images.labels.ndim == labels
    assert images.name == f"{name}-{'validation' if name.startswith('imagenet2012') else 'test'}"


def test_pets_and_coco():
    """Their mocks make boxes and captions that TFDS itself refuses, so the examples are given."""

    def examples(self, *_, **__):
        content = {"image": PICTURES[:2]}
        if self.name == "oxford_iiit_pet":
            content |= {"label": [36, 0], "file_name": ["a.jpg", "b.jpg"]}
        else:
            content |= {"image/filename": ["a.jpg", "b.jpg"], "captions": {"text": [["one", "two"], ["three", "four"]]}}
        return tf.data.Dataset.from_tensor_slices(content)

    with tfds.testing.mock_data(as_dataset_fn=examples):
        pets, coco = tfds_set("oxford_iiit_pet"), tfds_set("coco_captions")
    assert pets.class_names[0] == "Abyssinian"
    assert pets.labels.tolist() == [36, 0]
    assert coco.captions == (("one", "two"), ("three", "four"))
    assert coco.labels is None
    assert (pets.name, coco.name) == ("oxford_iiit_pet-test", "coco_captions-test")
    assert pets.ids == coco.ids == ("a.jpg", "b.jpg")


def test_imagenet_needs_names():
    with tfds.testing.mock_data(num_examples=1), pytest.raises(ValueError, match=r"by WordNet id \(n01440764"):
        tfds_set("imagenet_a")
