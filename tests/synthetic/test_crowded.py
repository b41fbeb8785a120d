# ruff: noqa: RUF001  (the dotless i is meant)
import collections
import random
import re

import numpy as np
import pytest

from siglip_tf.synthetic import (
    COMPOSITIONS,
    CROWDED_COMPOSITIONS,
    HELD_OUT,
    LANGUAGES,
    SceneSource,
    WebNoise,
    crowded_caption,
    crowded_prompts,
)
from siglip_tf.synthetic.crowded import compose_crowded
from siglip_tf.synthetic.web_noise import GENERIC_CAPTIONS


def pair(thing):
    return COMPOSITIONS.index((thing.colour, thing.shape))


def test_a_crowded_scene_shows_what_its_label_says():
    alike = 0
    for i in range(1_500):
        split = ("train", "test")[i % 2]
        scene = compose_crowded(random.Random(i), split)
        count, texture, colour, shape = CROWDED_COMPOSITIONS[scene.label]
        subject, others = scene.objects[: scene.count], scene.objects[scene.count :]
        assert scene.count == count == len(subject) and 1 <= len(others) <= 2
        assert {(t.texture, t.colour, t.shape, t.size) for t in subject} == {(texture, colour, shape, "large")}
        assert {t.size for t in others} == {"small"}
        assert len({t.place for t in scene.objects}) == len(scene.objects)
        pairs = [pair(subject[0]), *map(pair, others)]
        assert len(set(pairs)) == len(pairs)
        assert (pairs[0] in HELD_OUT) == (split == "test")
        assert split == "test" or not set(pairs) & HELD_OUT
        alike += sum(t.colour == colour or t.shape == shape for t in others)
    # Half of the others on purpose, and two in eleven of the other half by chance.
    assert 0.5 < alike / 1_500 / 1.5 < 0.7
    assert len(CROWDED_COMPOSITIONS) == 1_200


NUMBERS = {
    "en": ("a", "two", "three"),
    "de": ("ein", "zwei", "drei"),
    "es": ("un", "dos", "tres"),
    "fr": ("un", "deux", "trois"),
    "tr": ("bir", "iki", "üç"),
    "zh": ("一个", "两个", "三个"),
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_captions_count_and_prompts_name_every_composition_apart(language):
    for i in range(200):
        scene = compose_crowded(random.Random(i), "train")
        text = crowded_caption(scene, random.Random(i), language)
        assert text == text.lower() and "  " not in text and NUMBERS[language][scene.count - 1] in text
    prompts = crowded_prompts(language)
    assert len(prompts) == 1_200 and len({text for texts in prompts for text in texts}) == 4_800


PLURALS = {
    ("en", 2, "dotted", "white", "cross"): ["two dotted white crosses", "these are two dotted white crosses"],
    ("en", 3, "striped", "red", "arrow"): ["three striped red arrows", "these are three striped red arrows"],
    ("de", 2, "checked", "red", "circle"): ["zwei karierte rote kreise", "das sind zwei karierte rote kreise"],
    ("es", 3, "plain", "blue", "cross"): ["tres cruces azules lisas", "son tres cruces azules lisas"],
    ("es", 2, "dotted", "brown", "crescent"): ["dos medias lunas marrones de lunares"],
    ("fr", 2, "striped", "green", "star"): ["deux étoiles vertes à rayures", "ce sont deux étoiles vertes à rayures"],
    ("fr", 3, "plain", "orange", "cross"): ["trois croix orange unies"],
    ("tr", 2, "plain", "red", "heart"): ["iki düz kırmızı kalp", "bunlar iki düz kırmızı kalp"],
    ("zh", 3, "plain", "red", "ring"): ["三个纯色的红色圆环", "这是三个纯色的红色圆环"],
}


def test_several_objects_are_named_grammatically():
    for (language, *composition), expected in PLURALS.items():
        prompts = crowded_prompts(language, 3)[CROWDED_COMPOSITIONS.index(tuple(composition))]
        assert [prompts[0], prompts[2]][: len(expected)] == expected
    german = crowded_prompts("de", 2)[CROWDED_COMPOSITIONS.index((3, "dotted", "pink", "star"))]
    assert german[1] == "ein bild von drei gepunkteten rosafarbenen sternen"
    french = crowded_prompts("fr", 2)[CROWDED_COMPOSITIONS.index((2, "plain", "red", "ring"))]
    assert french[1] == "une image de deux anneaux rouges unis"


def test_english_captions_name_nothing_that_is_not_there():
    for i in range(300):
        generator = random.Random(i)
        scene = compose_crowded(generator, "test")
        words = set(re.findall(r"[a-z]+", crowded_caption(scene, generator)))
        colours = {thing.colour for thing in scene.objects}
        for colour in ("red", "orange", "yellow", "green", "blue", "pink", "brown", "white", "black"):
            assert colour in colours or colour not in words


def test_a_source_draws_crowded_scenes_and_names_them_apart():
    crowded, simple = SceneSource(level="crowded", size=5), SceneSource(size=5)
    example = crowded.example(3)
    assert example == SceneSource(level="crowded", size=5).example(3)
    assert example.scene.label == example.label and example.image != simple.example(3).image
    noisy = SceneSource(level="crowded", size=5, noise=WebNoise(0.1))
    assert len({source.fingerprint for source in (crowded, simple, noisy)}) == 3
    with pytest.raises(ValueError, match="level must be one of simple, crowded. Received: 'hard'"):
        SceneSource(level="hard")


def test_the_faults_of_captions_have_their_shares():
    count = 1_500
    noise = WebNoise(mismatched=0.3, generic=0.2, empty=0.1, repeated=0.25)
    clean = SceneSource(level="crowded", captions=1, size=count)
    noisy = SceneSource(level="crowded", captions=1, size=count, noise=noise)
    kinds = collections.Counter()
    for i in range(count):
        (text,), (own,) = noisy.texts(i), clean.texts(i)
        shown = noisy.picture_of(i)
        kinds["repeated"] += shown != i
        assert 0 <= i - shown <= 1_000
        kind = "empty" if not text else "generic" if text in GENERIC_CAPTIONS else "own" if text == own else "other"
        kinds[kind] += shown == i or kind in ("empty", "generic")
    np.testing.assert_allclose(kinds["empty"] / count, 0.1, atol=0.03)
    np.testing.assert_allclose(kinds["generic"] / count, 0.2, atol=0.035)
    np.testing.assert_allclose(kinds["repeated"] / count, 0.25 * (1 - 500 / count), atol=0.035)
    unrepeated = count - kinds["repeated"]
    np.testing.assert_allclose(kinds["other"] / unrepeated, 0.3, atol=0.04)
    again = next(i for i in range(count) if noisy.picture_of(i) != i)
    shown = noisy.picture_of(again)
    assert noisy.picture_of(shown) == shown, "the first repeated picture's original is not repeated itself"
    assert noisy.example(again).image == noisy.example(shown).image
    assert noisy.example(again).scene == noisy.example(shown).scene


def test_shares_that_cannot_be_are_refused():
    for arguments, message in (
        ({"generic": 1.2}, r"Expected generic to be a share in \[0, 1\]. Received: generic=1.2"),
        ({"mismatched": 0.6, "empty": 0.5}, "at most 1: an example has one caption. Received: 0.6 \\+ 0.0 \\+ 0.5"),
    ):
        with pytest.raises(ValueError, match=message):
            WebNoise(**arguments)
