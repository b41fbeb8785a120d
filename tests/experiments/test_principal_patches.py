"""The first patch projection is that of scikit-learn's principal components, up to a rotation."""

from types import SimpleNamespace

import numpy as np
from sklearn.decomposition import PCA

from siglip_tf.experiments.first_weights.principal_patches import principal_patches


def tower(patch, width):
    return SimpleNamespace(patch_size=patch, size=SimpleNamespace(width=width))


def test_tokens_keep_the_distances_of_principal_components():
    random = np.random.default_rng(0)
    mixed = random.standard_normal((60, 6)) @ random.standard_normal((6, 8 * 8 * 3))
    pixels = np.clip(128 + 25 * mixed, 0, 255).astype(np.uint8).reshape(60, 8, 8, 3)
    for patch, width in ((8, 4), (4, 12)):
        initial = {"image/block_0/mlp/fc2/kernel": np.ones(3, np.float32), "image/block_0/mlp/fc1/kernel": np.ones(3)}
        found = principal_patches(tower(patch, width), pixels, initial, np.random.default_rng(0))
        np.testing.assert_allclose(found.pop("image/block_0/mlp/fc2/kernel"), 0.1)
        assert len(found) == 2
        kernel, bias = found["image/patch_embedding/kernel"], found["image/patch_embedding/bias"]
        assert kernel.shape == (patch, patch, 3, width) and bias.shape == (width,)
        parts = 8 // patch
        rows = (
            (pixels / 127.5 - 1)
            .reshape(60, parts, patch, parts, patch, 3)
            .swapaxes(2, 3)
            .reshape(-1, patch * patch * 3)
        )
        tokens = rows @ kernel.reshape(-1, width) + bias
        np.testing.assert_allclose(tokens.mean(0), 0, atol=1e-3)
        np.testing.assert_allclose(np.mean(tokens**2), 1, rtol=1e-3)
        components = PCA(width).fit(rows)
        expected = components.transform(rows) * components.explained_variance_**-0.25
        cosines = [v @ v.T / np.linalg.norm(v, axis=1)[:, None] / np.linalg.norm(v, axis=1) for v in (tokens, expected)]
        np.testing.assert_allclose(*cosines, atol=0.02)


def test_pictures_that_are_all_alike_give_nothing():
    alike = np.full((5, 4, 4, 3), 7, np.uint8)
    assert principal_patches(tower(4, 4), alike, {}, np.random.default_rng(0)) == {}
