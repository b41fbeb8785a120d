"""Changes of whole batches: positions against scipy, colors against arithmetic, and captions that stay true."""

import numpy as np
import pytest
import tensorflow as tf
from scipy.ndimage import map_coordinates

from siglip_tf.data import Augmentation

CAPTIONS = tf.constant(["a dog", "an arrow", "nothing"])


def pictures(size=12):
    return np.random.default_rng(0).uniform(-1, 1, (3, size, size, 3)).astype(np.float32)


def changed(augmentation, images, draws, captions=CAPTIONS):
    return augmentation.batch(tf.constant(images), tf.constant(captions), tf.constant(draws, tf.float32)).numpy()


def test_positions_are_those_of_scipy():
    images, shift, scale, rotate = pictures(), 0.1, 0.2, 25.0
    draws = np.random.default_rng(1).random((3, 10)).astype(np.float32)
    got = changed(Augmentation(shift=shift, scale=scale, rotate=rotate), images, draws)
    rows, columns = np.mgrid[:12, :12] - 5.5
    for i, draw in enumerate(2 * draws.astype(np.float64) - 1):
        size, aspect, angle = 1 + scale * draw[0], 1 + 0.5 * scale * draw[1], np.deg2rad(rotate * draw[2])
        x, y = columns * size * aspect, rows * size / aspect
        at_column = np.cos(angle) * x - np.sin(angle) * y + 5.5 + shift * 12 * draw[4]
        at_row = np.sin(angle) * x + np.cos(angle) * y + 5.5 + shift * 12 * draw[3]
        for channel in range(3):
            right = map_coordinates(images[i, ..., channel], [at_row, at_column], order=1, mode="nearest")
            np.testing.assert_allclose(got[i, ..., channel], right, atol=2e-5)


def test_colors_keep_their_range_and_stand_still_at_the_middle():
    images = pictures()
    augmentation = Augmentation(color=0.5)
    np.testing.assert_allclose(changed(augmentation, images, np.full((3, 10), 0.5)), images, atol=1e-6)
    got = changed(augmentation, images, np.full((3, 10), 0.999))
    assert got.min() >= -1 and got.max() <= 1 and np.abs(got - images).max() > 0.2
    grey = np.full((1, 4, 4, 3), 0.2, np.float32)
    draws = np.full((1, 10), 0.5, np.float32)
    draws[0, 7:9] = 0.75, 1.0  # contrast up by a half of 0.5, brightness by all of it
    np.testing.assert_allclose(changed(augmentation, grey, draws, ["a"]), 0.2 * 1.25 + 0.5, atol=1e-6)


SIDED = [
    "left arrow",
    "a hand pointing RIGHT",
    "turn right-hand",
    "nach links",
    "左手",
    "rightwards",
    "à gauche",
    "counter-clockwise",
]
FREE = ["a bright day", "upright piano", "leftover pizza", "copyright", "a clock", "человек"]


def test_no_picture_is_mirrored_whose_caption_names_a_side():
    images = np.repeat(pictures()[:1], len(SIDED + FREE), axis=0)
    got = changed(Augmentation(flip="captions"), images, np.zeros((len(images), 10)), SIDED + FREE)
    mirrored = [bool(np.allclose(one, images[0, :, ::-1], atol=1e-6)) for one in got]
    assert mirrored == [False] * len(SIDED) + [True] * len(FREE)
    np.testing.assert_allclose(got[: len(SIDED)], images[: len(SIDED)], atol=1e-6)
    still = changed(Augmentation(flip="captions"), images, np.full((len(images), 10), 0.5), SIDED + FREE)
    np.testing.assert_allclose(still, images, atol=1e-6)


def test_what_cannot_be_is_refused_and_the_config_is_the_arguments():
    for wrong in ({"flip": "never"}, {"shift": 0.6}, {"scale": 1.0}, {"rotate": -1}, {"color": 1.5}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Augmentation(**wrong)
    augmentation = Augmentation("captions", shift=0.1, scale=0.2, rotate=5, color=0.3)
    assert Augmentation(**augmentation.get_config()).get_config() == augmentation.get_config()
    assert augmentation.changes_batches and not Augmentation(True).changes_batches


@pytest.mark.slow
def test_a_resumed_pipeline_sees_the_same_changes():
    from siglip_tf.data.pipeline import TrainingData
    from tests.data.memory_source import MemorySource, tiny_preprocessing

    def data():
        augmentation = Augmentation("captions", shift=0.2, scale=0.2, color=0.3)
        return TrainingData(MemorySource(30), tiny_preprocessing(), 6, seed=3, augmentation=augmentation)

    first = data()
    whole = [batch["image"] for batch in first.dataset().take(4).as_numpy_iterator()]
    again = data()
    again.restore(first.state(2))
    for batch, right in zip(again.dataset().take(2).as_numpy_iterator(), whole[2:], strict=True):
        np.testing.assert_array_equal(batch["image"], right)
    plain = TrainingData(MemorySource(30), tiny_preprocessing(), 6, seed=3)
    unchanged = next(plain.dataset().take(1).as_numpy_iterator())["image"]
    assert np.abs(unchanged - whole[0]).max() > 0.01
