"""First weights from the data: discriminants, oriented gradients, and token vectors against other libraries."""

import numpy as np
import tensorflow as tf
from scipy.linalg import sqrtm
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge

import siglip_tf
from recipes import quickstart
from siglip_tf.data import ImagePreprocessing, Preprocessing, Tokenizer
from siglip_tf.data.text.training import train_tokenizer
from siglip_tf.experiments.first_weights.discriminants import within
from siglip_tf.experiments.first_weights.first_words import token_vectors
from siglip_tf.experiments.first_weights.of_both_towers import first_weights
from siglip_tf.experiments.first_weights.oriented_gradients import fits, oriented_gradients
from tests.data.memory_source import MemorySource
from tests.experiments.test_advice import png

COLORS = ("red", "green", "blue")
SIDE = 8


def small_model(**changed):
    """A tower of 2 x 2 patches of 4 pixels that can begin as oriented gradients."""
    arguments = {
        **{"image": "Ti/4", "image_size": SIDE, "image_width": 72, "image_depth": 1},
        **{"image_mlp_dim": 128, "image_heads": 4, "text": "mu", "text_width": 72, "text_heads": 2},
        **{"text_length": 8, "vocab_size": 40},
    }
    return siglip_tf.SigLIP(**{**arguments, **changed})


def weights_of(model):
    return {name: variable.numpy() for name, variable in model.named_weights().items()}


def test_differences_between_pictures_of_a_thing_are_made_alike():
    random = np.random.default_rng(0)
    things = 30 * random.standard_normal((10, 48))
    nuisance = random.standard_normal((3, 48))  # pictures of a thing differ along these directions
    rows = things[np.arange(60) % 10] + 25 * random.standard_normal((60, 3)) @ nuisance
    rows += 3 * random.standard_normal(rows.shape)
    components = PCA(12).fit_transform(rows)
    found = components @ within(components, np.arange(60) % 10)
    means = np.stack([components[label::10].mean(0) for label in range(10)])
    apart = components - means[np.arange(60) % 10]
    covariance = apart.T @ apart / 50
    covariance += 0.3 * np.trace(covariance) / 12 * np.eye(12)
    np.testing.assert_allclose(found, components @ np.linalg.inv(sqrtm(covariance)), atol=1e-6)

    # Without pictures of one thing, the components' deviations are made more alike.
    deviations = components.std(axis=0)
    alone = components @ within(components, np.arange(60))
    np.testing.assert_allclose(alone.std(axis=0) / deviations, (deviations / deviations[0]) ** -0.5, rtol=1e-5)


def test_a_tower_begins_as_gradients_in_cells():
    random = np.random.default_rng(0)
    model = small_model()
    assert fits(model.image)
    for changed in ({"image_depth": 2}, {"image_heads": 8}):
        assert not fits(small_model(**changed).image)
    pixels = random.integers(0, 256, (60, SIDE, SIDE, 3)).astype(np.uint8)
    found = oriented_gradients(model, pixels, np.arange(60) % 10, weights_of(model), random)
    assert found.keys() == {name for name in weights_of(model) if name.startswith("image/")}
    for name, array in found.items():
        np.testing.assert_array_equal(model.named_weights()[name], array)

    images = tf.constant(pixels, tf.float32) / 127.5 - 1
    tokens = model.image(images, pooled=False).numpy()
    luminance = (pixels / 127.5 - 1).mean(3).reshape(60, 2, 4, 2, 4).swapaxes(2, 3).reshape(60, 4, 4, 4)
    down, right = np.gradient(luminance, axis=(2, 3))  # one-sided at the borders of a patch
    expected = np.stack(
        [np.abs(np.cos(angle) * right + np.sin(angle) * down) for angle in np.pi * np.arange(4) / 4], axis=-1
    )
    expected = expected.reshape(60, 4, 2, 2, 2, 2, 4).mean((3, 5)).reshape(60, 4, 16)
    cells = tokens[..., 48 + 4 : 48 + 4 + 16]
    for place in range(4):
        for picture in range(0, 60, 10):
            assert np.corrcoef(cells[picture, place], expected[picture, place])[0, 1] > 0.95

    # A change of one patch changes the output of one head.
    changed = pixels.copy()
    changed[:, :4, :4] = pixels[::-1, :4, :4]
    value = found["image/head/attention/out/kernel"].reshape(72, 72)
    heads = [(model.image(tf.constant(p, tf.float32) / 127.5 - 1).numpy()) for p in (pixels, changed)]
    moved = np.square((heads[1] - heads[0]) @ np.linalg.inv(value)).reshape(60, 4, 18).sum((0, 2))
    assert moved[0] > 0.9 * moved.sum()
    flat = np.broadcast_to(np.arange(60, dtype=np.uint8)[:, None, None, None], pixels.shape)
    for alike in (flat, pixels[[0] * 60]):
        assert oriented_gradients(model, alike, np.arange(60), weights_of(model), random) == {}


def test_token_vectors_are_ridge_regression():
    random = np.random.default_rng(0)
    ids = random.integers(2, 20, (50, 6))
    ids[:, 4:] = 1
    targets = random.standard_normal((50, 5))
    found = token_vectors(ids, targets, 25, (0, 1))
    counts = np.stack([np.bincount(row, minlength=25) for row in ids[:, :4]])
    np.testing.assert_allclose(found, Ridge(alpha=0.1, fit_intercept=False).fit(counts, targets).coef_.T, atol=1e-9)
    assert not found[[0, 1, 22]].any()


def test_a_model_knows_its_pairs_before_any_training():
    random = np.random.default_rng(0)
    patterns = random.integers(0, 256, (3, SIDE, SIDE, 3))
    noisy = [np.clip(patterns[i % 3] + random.integers(-40, 40, (SIDE, SIDE, 3)), 0, 255) for i in range(30)]
    records = {i: {"image": png(noisy[i].astype(np.uint8)), "captions": [f"a {COLORS[i % 3]} one"]} for i in range(30)}
    records[4]["image"] = b"torn"
    tokenizer = Tokenizer(train_tokenizer([f"a {color} one" for color in COLORS], 40, model_type="bpe"), 8)
    for changed in ({"text_width": 48}, {"text_width": 96, "text_depth": 2}):
        model = small_model(**changed)
        preprocessing = Preprocessing(ImagePreprocessing(SIDE), tokenizer)
        weights = first_weights(quickstart.RECIPE.settings(), MemorySource(30, records), preprocessing, model)
        model.assign_weights({**weights_of(model), **weights})
        images = model.encode_image(tf.constant(np.stack(noisy).astype(np.uint8))).numpy()
        texts = model.encode_text(tokenizer([f"a {color} one" for color in COLORS])).numpy()
        right = (images @ texts.T).argmax(1) == np.arange(30) % 3
        assert right.mean() > 0.9, changed
    torn = MemorySource(2, {i: {"image": b"torn"} for i in range(2)})
    assert first_weights(quickstart.RECIPE.settings(), torn, preprocessing, model) == {}
