"""What a run does to images and texts: as its checkpoint says, by the settings, or as training from scratch does."""

import dataclasses

import pytest

from recipes import finetune, quickstart, siglip
from siglip_tf.checkpoints import Checkpoint
from siglip_tf.experiments.build import build_preprocessing, build_tokenizer
from siglip_tf.experiments.config import flat, keep_former
from tests.vocabulary import trained

TEXT = {
    "length": 9,
    "lower_case": "simple",
    "eos_id": 1,
    "pad_id": 0,
    "punctuation": "strip",
    "special_tokens": ["<unk>"],
}


@pytest.fixture(scope="module")
def vocabulary():
    return trained(["a photo of a cat", "the quick brown fox"], 40)


def config(c, vocabulary, start=None):
    return build_preprocessing(c, build_tokenizer(c, vocabulary, start), start).to_config(vocabulary=False)


def test_from_scratch_transparent_pictures_are_composed_on_white(vocabulary):
    for recipe in (siglip.RECIPE, quickstart.RECIPE):
        c = recipe.settings()
        c.model.text_length = 6
        found = config(c, vocabulary)
        assert found["image"]["alpha"] == "white"
        assert found["text"] == {"length": 6, "lower_case": "unicode", "eos_id": 1, "pad_id": 1, "punctuation": "keep"}
        c.image_alpha, c.lower_case, c.pad_id = "drop", "ascii", 0
        found = config(c, vocabulary)
        assert (found["image"]["alpha"], found["text"]["lower_case"], found["text"]["pad_id"]) == ("drop", "ascii", 0)


def test_fine_tuning_prepares_as_its_checkpoint_says(vocabulary):
    image = {"size": 50, "method": "bicubic_antialias", "alpha": "drop"}
    start = Checkpoint({}, {}, {"image": image, "text": TEXT}, "native", vocabulary)
    c = finetune.RECIPE.settings()
    c.model.text_length = 9
    found = config(c, vocabulary, start)
    assert found["text"] == TEXT and found["image"] | image == found["image"]
    white = dataclasses.replace(start, preprocessing={"image": {**image, "alpha": "white"}, "text": TEXT})
    assert config(c, vocabulary, white)["image"]["alpha"] == "white"
    silent = dataclasses.replace(start, preprocessing={"image": {"size": 50}, "text": None})  # an older checkpoint
    assert config(c, vocabulary, silent)["image"]["alpha"] == "drop"
    c.image_alpha, c.pad_id = "white", 1
    found = config(c, vocabulary, start)
    assert found["image"]["alpha"] == "white" and found["text"] == {**TEXT, "pad_id": 1}


def test_a_run_that_began_earlier_goes_on_as_it_began():
    former = flat(siglip.RECIPE.settings())
    named = {"lower_case": "ascii", "pad_id": 1, "image_alpha": "drop"}
    for before, expected in (
        (None, (None, None, None)),
        (former, (None, None, None)),  # begun by this version
        ({**former, **named}, ("ascii", 1, "drop")),
        ({key: value for key, value in former.items() if key not in named}, ("unicode", 1, "drop")),
    ):
        c = siglip.RECIPE.settings()
        keep_former(c, before)
        assert (c.lower_case, c.pad_id, c.image_alpha) == expected
    c = siglip.RECIPE.settings()
    c.image_alpha = "white"
    keep_former(c, {**former, **named})
    assert c.image_alpha == "white"  # and the folder refuses it
