# ruff: noqa: RUF001  (the dotless i is meant)
import io
import random
import re

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from siglip_tf.synthetic import (
    COMPOSITIONS,
    HELD_OUT,
    LANGUAGES,
    SEEN,
    Scene,
    SceneObject,
    SceneSource,
    caption,
    class_names,
    class_prompts,
)
from siglip_tf.synthetic.composition import COLOURS, PLACES, SHAPES, SIZES, TEXTURES, compose
from siglip_tf.synthetic.drawing import draw


def scenes(split, count=3000):
    return [compose(random.Random(i), split) for i in range(count)]


def compositions(scene):
    return [COMPOSITIONS.index((thing.colour, thing.shape)) for thing in scene.objects]


def test_every_attribute_is_seen_and_every_fifth_composition_is_held_out():
    assert len(HELD_OUT) == 20 and len(SEEN) == 80 and not HELD_OUT & set(SEEN)
    held_out = [COMPOSITIONS[label] for label in HELD_OUT]
    assert all(sum(colour == c for c, _ in held_out) == 2 for colour in COLOURS)
    assert all(sum(shape == s for _, s in held_out) == 2 for shape in SHAPES)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_training_never_shows_a_held_out_composition(split):
    seen = {label for scene in scenes(split) for label in compositions(scene)}
    assert seen == set(SEEN)


def test_the_subject_of_a_test_scene_is_held_out_and_the_company_is_any():
    drawn = scenes("test")
    assert {scene.label for scene in drawn} == HELD_OUT
    assert {label for scene in drawn for label in compositions(scene)[1:]} == set(range(100))


def test_the_subject_is_the_one_large_object_and_nothing_shares_a_place_or_a_composition():
    drawn = scenes("train")
    assert {len(scene.objects) for scene in drawn} == {1, 2, 3}
    for scene in drawn:
        assert scene.label == compositions(scene)[0]
        if len(scene.objects) > 1:
            assert [thing.size for thing in scene.objects] == ["large"] + ["small"] * (len(scene.objects) - 1)
        assert len({thing.place for thing in scene.objects}) == len(set(compositions(scene))) == len(scene.objects)
    attributes = {(thing.texture, thing.size, thing.place) for scene in drawn for thing in scene.objects}
    assert len(attributes) == len(TEXTURES) * len(SIZES) * len(PLACES)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [64, 96])
def test_a_drawn_object_has_its_colour_its_place_and_its_size(shape, size):
    areas = {}
    for name in SIZES:
        thing = SceneObject(shape, "blue", "plain", name, (0, 2))
        pixels = draw(Scene((thing,), 0), random.Random(0), size).astype(int)
        blue = (pixels[..., 2] > 140) & (pixels[..., 0] < 90)
        rows, columns = np.nonzero(blue)
        assert rows.max() < size / 2 and columns.min() > size / 2
        areas[name] = blue.sum() / size**2
    assert 0.004 < areas["small"] < areas["large"] / 2 < 0.06


def test_textures_show_two_colours_and_shapes_differ():
    def picture(shape, texture):
        return draw(Scene((SceneObject(shape, "red", texture, "large", (1, 1)),), 0), random.Random(0), 64)

    plain = picture("square", "plain")
    for texture in TEXTURES[1:]:
        changed = np.abs(picture("square", texture).astype(int) - plain).max(axis=2) > 60
        assert 60 < changed.sum() < 250
    masks = [picture(shape, "plain")[..., 1] < 70 for shape in SHAPES]
    for i, first in enumerate(masks):
        for second in masks[i + 1 :]:
            assert (first & second).sum() / (first | second).sum() < 0.88


def test_an_example_is_a_function_of_seed_split_and_index_alone():
    source = SceneSource("train", languages=LANGUAGES, captions=2)
    example = source.example(10**9)
    assert example == SceneSource("train", languages=LANGUAGES, captions=2).example(10**9)
    assert source.texts(10**9) == example.captions
    assert example.languages == tuple(language for language in LANGUAGES for _ in range(2))
    others = [source.example(0), SceneSource("train", seed=1).example(10**9), SceneSource("test").example(10**9)]
    assert example.image not in [other.image for other in others]
    assert np.asarray(Image.open(io.BytesIO(example.image))).shape == (64, 64, 3)


def test_the_graph_reads_what_python_draws():
    source = SceneSource("test", size=5, captions=3, image_size=48)
    examples = list(tf.data.Dataset.range(5).map(source.read).as_numpy_iterator())
    for i, example in enumerate(examples):
        drawn = source.example(i)
        assert example["image"] == drawn.image and example["label"] == drawn.label
        assert [text.decode() for text in example["captions"]] == list(drawn.captions)
        assert example["id"].decode() == drawn.id
        assert example["language"].tolist() == [b"en"] * 3
    assert tf.data.Dataset.range(5).map(source.read).element_spec["captions"].shape == (3,)
    assert source.locate(3) == ("scenes/test (seed 0)", 3)
    with pytest.raises(IndexError, match="holds 5"):
        source.example(5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "dev"}, "split must be one of"),
        ({"size": 0}, "size must be"),
        ({"languages": ("xx",)}, "no grammar for language 'xx'"),
        ({"captions": 0}, "needs a caption"),
        ({"image_size": 8}, "image_size must be 32 to 256"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        SceneSource(**arguments)


def test_the_fingerprint_names_everything_that_decides_the_examples():
    variants = [{}, {"split": "test"}, {"seed": 1}, {"size": 9}, {"languages": ("de",)}, {"captions": 1}]
    assert len({SceneSource(**variant).fingerprint for variant in variants}) == len(variants)
    assert SceneSource().fingerprint == SceneSource().fingerprint


# What the sentences must not say: the words for colours and shapes that are not in the scene.
_ENGLISH_COLOUR = {colour: (colour, "violet") if colour == "purple" else (colour,) for colour in COLOURS}


def test_english_captions_name_nothing_that_is_not_there():
    for i in range(500):
        generator = random.Random(i)
        scene = compose(generator, "test")
        words = set(re.findall(r"[a-z]+", caption(scene, generator)))
        shown = {thing.colour for thing in scene.objects}
        for colour, synonyms in _ENGLISH_COLOUR.items():
            assert colour in shown or not words & set(synonyms)
        assert words & set(_ENGLISH_COLOUR[scene.objects[0].colour])


@pytest.mark.parametrize("language", LANGUAGES)
def test_captions_vary_and_are_lower_case(language):
    scene = compose(random.Random(5), "train")
    texts = {caption(scene, random.Random(i), language) for i in range(200)}
    assert len(texts) > 40
    assert all(text == text.lower() and text.strip() == text and "  " not in text for text in texts)


@pytest.mark.parametrize("language", LANGUAGES)
def test_prompts_name_every_class_apart(language):
    prompts = class_prompts(language)
    assert len(prompts) == 100 and all(len(set(texts)) == 4 for texts in prompts)
    assert len({text for texts in prompts for text in texts}) == 400
    assert len(class_names()) == 100


GRAMMATICAL = {
    # (colour, shape) -> every case a sentence asks for
    ("en", "orange", "arrow"): ["an orange arrow", "a picture of an orange arrow"],
    ("de", "red", "circle"): ["ein roter kreis", "ein bild von einem roten kreis"],
    ("de", "red", "heart"): ["ein rotes herz", "ein bild von einem roten herzen"],
    ("de", "pink", "diamond"): ["eine rosafarbene raute", "ein bild von einer rosafarbenen raute"],
    ("es", "white", "star"): ["una estrella blanca", "una imagen de una estrella blanca"],
    ("es", "black", "square"): ["un cuadrado negro", "una imagen de un cuadrado negro"],
    ("es", "blue", "crescent"): ["una media luna azul", "una imagen de una media luna azul"],
    ("fr", "white", "arrow"): ["une flèche blanche", "une image d'une flèche blanche"],
    ("fr", "green", "circle"): ["un cercle vert", "une image d'un cercle vert"],
    ("fr", "orange", "star"): ["une étoile orange", "une image d'une étoile orange"],
    ("tr", "brown", "heart"): ["kahverengi bir kalp", "kahverengi bir kalp resmi"],
    ("zh", "purple", "ring"): ["一个紫色圆环", "一张图片,上面是一个紫色圆环"],
}


@pytest.mark.parametrize(("language", "colour", "shape"), GRAMMATICAL)
def test_agreement(language, colour, shape):
    prompts = class_prompts(language)[COMPOSITIONS.index((colour, shape))]
    assert prompts[:2] == GRAMMATICAL[language, colour, shape]


RELATIONS = {
    "en": "a red star above an orange ring",
    "de": "ein roter stern über einem orangefarbenen ring",
    "es": "una estrella roja encima de un anillo naranja",
    "fr": "une étoile rouge au-dessus d'un anneau orange",
    "tr": "turuncu bir halkanın üstünde kırmızı bir yıldız",
    "zh": "一个红色星形在一个橙色圆环的上方",
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_relations_say_how_objects_stand(language):
    star = SceneObject("star", "red", "plain", "large", (0, 1))
    ring = SceneObject("ring", "orange", "plain", "small", (2, 2))
    scene = Scene((star, ring), 0)
    texts = {caption(scene, random.Random(i), language) for i in range(3000)}
    assert RELATIONS[language] in texts


def test_relations_match_the_places_drawn():
    above, below = "a red star above", "a red star below"
    for row, wrong in ((0, below), (2, above)):
        scene = Scene(
            (
                SceneObject("star", "red", "plain", "large", (row, 1)),
                SceneObject("ring", "blue", "plain", "small", (1, 1)),
            ),
            0,
        )
        assert not any(wrong in caption(scene, random.Random(i)) for i in range(500))
