"""The first patch projection is that of scikit-learn's principal components, up to a rotation."""

import numpy as np
from scipy.linalg import sqrtm
from sklearn.decomposition import PCA

from recipes import quickstart
from siglip_tf.data import ImagePreprocessing
from siglip_tf.experiments.principal_patches import principal_patches
from tests.data.memory_source import MemorySource
from tests.experiments.test_advice import png


class Unlabeled(MemorySource):
    """Pictures each of a thing of its own."""

    def read(self, index):
        return {key: value for key, value in super().read(index).items() if key != "label"}


def test_tokens_keep_the_distances_of_principal_components():
    random = np.random.default_rng(0)
    mixed = random.standard_normal((60, 6)) @ random.standard_normal((6, 8 * 8 * 3))
    pixels = np.clip(128 + 25 * mixed, 0, 255).astype(np.uint8).reshape(60, 8, 8, 3)
    source = Unlabeled(60, {i: {"image": png(pixels[i])} for i in range(60)})
    c = quickstart.RECIPE.settings()
    for patch, width in ((8, 4), (4, 12)):
        c.model.update({"image": f"Ti/{patch}", "image_size": 8, "image_width": width})
        initial = {"image/block_0/mlp/fc2/kernel": np.ones(3, np.float32), "image/block_0/mlp/fc1/kernel": np.ones(3)}
        found = principal_patches(c, source, ImagePreprocessing(8), initial)
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


def test_pictures_that_are_all_alike_or_broken_give_nothing():
    c = quickstart.RECIPE.settings()
    c.model.update({"image": "Ti/4", "image_size": 4, "image_width": 4})
    alike = MemorySource(5, {i: {"image": png(np.full((4, 4, 3), 7, np.uint8))} for i in range(5)})
    assert principal_patches(c, alike, ImagePreprocessing(4), {}) == {}
    assert (
        principal_patches(c, MemorySource(2, {i: {"image": b"torn"} for i in range(2)}), ImagePreprocessing(4), {})
        == {}
    )


def test_differences_between_pictures_of_a_thing_are_made_alike():
    random = np.random.default_rng(0)
    things = 30 * random.standard_normal((10, 48))
    nuisance = random.standard_normal((3, 48))  # pictures of a thing differ along these directions
    mixed = things[np.arange(60) % 10] + 25 * random.standard_normal((60, 3)) @ nuisance
    mixed += 3 * random.standard_normal(mixed.shape)
    pixels = np.clip(128 + mixed, 0, 255).astype(np.uint8).reshape(60, 4, 4, 3)
    source = MemorySource(60, {i: {"image": png(pixels[i])} for i in range(60)})  # the label is the number modulo 10
    c = quickstart.RECIPE.settings()
    c.model.update({"image": "Ti/4", "image_size": 4, "image_width": 12})
    shapes = {"value": (12, 3, 4), "out": (3, 4, 12)}
    head = {f"image/head/attention/{part}/kernel": np.ones(shape, np.float32) for part, shape in shapes.items()}
    found = principal_patches(c, source, ImagePreprocessing(4), head)
    value, out = (found[name].reshape(12, 12) for name in head)
    np.testing.assert_allclose(value @ out, np.eye(12))
    rows = pixels.reshape(60, 48) / 127.5 - 1
    tokens = rows @ found["image/patch_embedding/kernel"].reshape(48, 12) + found["image/patch_embedding/bias"]

    components = PCA(12).fit_transform(rows)
    means = np.stack([components[label::10].mean(0) for label in range(10)])
    apart = components - means[np.arange(60) % 10]
    covariance = apart.T @ apart / 50
    covariance += 0.3 * np.trace(covariance) / 12 * np.eye(12)
    expected = components @ np.linalg.inv(sqrtm(covariance))
    cosines = [v @ v.T / np.linalg.norm(v, axis=1)[:, None] / np.linalg.norm(v, axis=1) for v in (tokens, expected)]
    np.testing.assert_allclose(*cosines, atol=0.02)

    def nearest_has_its_label(v):
        apart = np.linalg.norm(v[:, None] - v[None], axis=-1) + 1e9 * np.eye(60)
        return (apart.argmin(1) % 10 == np.arange(60) % 10).mean()

    assert nearest_has_its_label(tokens) > nearest_has_its_label(components) + 0.05
