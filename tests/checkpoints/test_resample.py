import dataclasses

import numpy as np
import pytest
import scipy.ndimage

from siglip_tf.checkpoints import CheckpointError, resample_position_embedding, with_image_size


@pytest.mark.parametrize(("old", "new"), [(14, 24), (16, 27), (7, 3), (3, 7), (24, 14), (2, 5), (1, 4), (4, 1), (1, 1)])
def test_equals_scipy_zoom_as_big_vision_calls_it(rng, old, new):
    embedding = rng.normal(size=(1, old * old, 6)).astype(np.float32)
    wanted = scipy.ndimage.zoom(embedding.reshape(old, old, 6), (new / old, new / old, 1), order=1)
    found = resample_position_embedding(embedding, new)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted.reshape(1, new * new, 6), rtol=0, atol=1e-6)


def test_grids_that_are_not_square(rng):
    embedding = rng.normal(size=(1, 6, 5)).astype(np.float32)
    wanted = scipy.ndimage.zoom(embedding.reshape(2, 3, 5), (4 / 2, 7 / 3, 1), order=1)
    found = resample_position_embedding(embedding, (4, 7), old_grid=(2, 3))
    np.testing.assert_allclose(found, wanted.reshape(1, 28, 5), rtol=0, atol=1e-6)


def test_the_same_grid_is_left_alone(rng):
    embedding = rng.normal(size=(1, 25, 6)).astype(np.float32)
    assert resample_position_embedding(embedding, 5) is embedding


def test_no_square_grid():
    with pytest.raises(CheckpointError, match="8 image positions"):
        resample_position_embedding(np.zeros((1, 8, 6), np.float32), 5)


def test_checkpoint_at_another_resolution(tiny):
    checkpoint = dataclasses.replace(
        tiny(), preprocessing={"image": {"size": 50, "method": "big_vision"}, "text": None}
    )
    found = with_image_size(checkpoint, 70)
    assert found.architecture == {**checkpoint.architecture, "image_size": 70}
    assert found.weights["image/position_embedding"].shape == (1, 25, 20)
    assert found.preprocessing == {"image": {"size": 70, "method": "big_vision"}, "text": None}
    assert "3 x 3 to 5 x 5" in found.notes[0]
    same_grid = with_image_size(checkpoint, 42)
    assert same_grid.notes == ()
    assert same_grid.architecture["image_size"] == 42
    with pytest.raises(ValueError, match="at least one patch"):
        with_image_size(checkpoint, 13)
    oblong = with_image_size(checkpoint, (30, 70))
    assert oblong.weights["image/position_embedding"].shape == (1, 2 * 5, 20)
    assert oblong.preprocessing == {"image": None, "text": None}
    assert "30 x 70" in oblong.notes[1]
