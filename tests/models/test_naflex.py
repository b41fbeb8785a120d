"""NaFlex: pictures of any shape, pixels to logits, against transformers with random weights."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import siglip_tf
from siglip_tf import checkpoints
from siglip_tf.data import NaFlexPreprocessing, Preprocessing
from siglip_tf.data.images.naflex import grid_of
from siglip_tf.models.naflex import resized_positions

ARGUMENTS = {
    "image": "B/4",
    "image_size": 12,
    "image_width": 12,
    "image_depth": 2,
    "image_mlp_dim": 20,
    "image_heads": 3,
    "text": "B",
    "text_width": 16,
    "text_depth": 1,
    "text_mlp_dim": 24,
    "text_heads": 4,
    "text_length": 7,
    "vocab_size": 37,
}
# The extremes that are asked for, and the commonest shapes.
SIZES = [(1, 700), (2000, 37), (1, 1), (37, 2000), (64, 64), (640, 480), (3, 1000), (16, 16)]


def naflex_model(max_patches=20):
    keras.utils.set_random_seed(0)
    model = siglip_tf.SigLIP(**ARGUMENTS, max_patches=max_patches)
    rng = np.random.default_rng(1)
    for name, variable in model.named_weights().items():
        noise = rng.normal(0, 0.3, variable.shape).astype(np.float32)
        variable.assign(noise + name.endswith("scale"))
    model.preprocessing = Preprocessing(NaFlexPreprocessing(4, max_patches))
    return model


def random_pictures(count, seed=0):
    rng = np.random.default_rng(seed)
    sizes = SIZES + [tuple(np.exp(rng.uniform(0, 6.5, 2)).astype(int)) for _ in range(count)]
    return [rng.integers(0, 256, (height, width, 3), np.uint8) for height, width in sizes[:count]]


def test_grids_are_those_of_a_search_in_python():
    """Python's own floats, step by step; both stop at the same scale."""
    find = tf.function(grid_of, input_signature=[tf.TensorSpec([], tf.int32)] * 4)
    rng = np.random.default_rng(0)
    sizes = SIZES + [tuple(np.exp(rng.uniform(0, 8.5, 2)).astype(int)) for _ in range(100)]
    for height, width in sizes:
        patch, most = (16, 256) if height % 2 else (int(rng.integers(1, 40)), int(rng.integers(1, 2000)))
        low, high = 1e-6, 100.0
        while high - low >= 1e-5:
            middle = (low + high) / 2
            rows, columns = (max(1, int(np.ceil(side * middle / patch))) for side in (height, width))
            low, high = (middle, high) if rows * columns <= most else (low, middle)
        wanted = [max(1, int(np.ceil(side * low / patch))) for side in (height, width)]
        assert [int(side) for side in find(height, width, patch, most)] == wanted, (height, width, patch, most)


def test_positions_of_the_learned_grid_are_unchanged():
    table = np.random.default_rng(0).normal(size=(1, 9, 4)).astype(np.float32)
    found = resized_positions(tf.constant(table), tf.constant([[3, 3], [1, 1]]), tf.constant(11))
    np.testing.assert_allclose(found[0, :9], table[0], atol=1e-6)
    assert np.isfinite(found).all()


def test_padding_and_company_change_nothing():
    model = naflex_model()
    pictures = random_pictures(3)
    together = model.encode_image(pictures)
    assert together.shape == (3, 12)
    alone = np.concatenate([model.encode_image([picture]) for picture in pictures])
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-6)
    encoded = [tf.io.encode_png(picture).numpy() for picture in pictures]
    np.testing.assert_allclose(model.encode_image(encoded), together, rtol=0, atol=1e-6)
    in_graph = tf.function(model.encode_image, input_signature=[tf.TensorSpec([None], tf.string)])
    np.testing.assert_allclose(in_graph(tf.constant(encoded)), together, rtol=0, atol=1e-6)
    batch = {key: tf.stack([model.preprocessing.image(p)[key] for p in pictures]) for key in ("patches", "grid")}
    junk = batch["patches"].numpy()
    for row, (rows, columns) in zip(junk, batch["grid"].numpy(), strict=True):
        row[rows * columns :] = 1e3
    np.testing.assert_allclose(model.encode_image(batch | {"patches": junk}), together, rtol=0, atol=1e-6)


def test_checkpoints_keep_it(tmp_path):
    model = naflex_model()
    pictures = random_pictures(3)
    wanted = model.encode_image(pictures)
    for format in ("native", "big_vision", "hugging_face"):
        model.save_checkpoint(tmp_path / format, format=format)
        again = siglip_tf.SigLIP.from_checkpoint(tmp_path / format, max_patches=20, verbose=False)
        assert again.preprocessing.image.to_config() == model.preprocessing.image.to_config()
        np.testing.assert_array_equal(again.encode_image(pictures), wanted, err_msg=format)
    assert np.load(tmp_path / "big_vision")["params/img/pos_embedding"].shape == (3, 3, 12)
    assert checkpoints.read(tmp_path / "hugging_face").architecture["max_patches"] == 20
    assert json.loads((tmp_path / "hugging_face/config.json").read_text())["model_type"] == "siglip2"
    with pytest.raises(ValueError, match="keras_hub has no NaFlex"):
        model.save_checkpoint(tmp_path / "keras_hub", format="keras_hub")
    with pytest.raises(ValueError, match="any size"):
        siglip_tf.SigLIP.from_checkpoint(tmp_path / "native", image_size=24)
    assert "NaFlex, patch 4, at most 20 patches, 3 x 3" in checkpoints.describe(checkpoints.read(tmp_path / "native"))


def test_what_is_refused():
    model = naflex_model()
    with pytest.raises(ValueError, match="do not train"):
        model.compile("adamw")
    good = {"patches": np.zeros((1, 20, 48), np.float32), "grid": [[1, 20]]}
    assert model.encode_image(good).shape == (1, 12)
    for images, says in (
        (np.zeros((1, 12, 12, 3), np.float32), "pictures of any size"),
        ([], "at least one picture"),
        ({"patches": good["patches"]}, "without 'grid'"),
        (good | {"patches": np.zeros((1, 20, 47), np.float32)}, r"\(batch, patches, 48\)"),
        (good | {"patches": np.zeros((1, 20, 48), np.int32)}, "int32"),
        (good | {"grid": [[3, 7]]}, "1 to 20 patches"),
        (good | {"grid": [[0, 7]]}, "1 to 20 patches"),
        (good | {"grid": [7]}, r"\(batch, 2\)"),
    ):
        with pytest.raises(ValueError, match=says):
            model.encode_image(images)
    for arguments, says in (({"image_size": 13}, "whole patches"), ({"image_pool": "gap"}, "image_pool='map'")):
        with pytest.raises(ValueError, match=says):
            siglip_tf.SigLIP(**{**ARGUMENTS, **arguments}, max_patches=4)
    with pytest.raises(ValueError, match="max_patches to be a positive integer"):
        siglip_tf.SigLIP(**ARGUMENTS, max_patches=0)
    with pytest.raises(ValueError, match="method of NaFlex"):
        NaFlexPreprocessing(method="big_vision")


@pytest.mark.slow
@pytest.mark.parametrize(("patch", "grid", "max_patches"), [(4, 3, 20), (16, 16, 256), (16, 5, 100)])
def test_transformers_gives_the_same_logits(tmp_path, patch, grid, max_patches):
    """Random weights of transformers' own making; big_vision's file holds the same model."""
    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    torch.manual_seed(0)
    vision = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 3}
    text = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = transformers.Siglip2Config(
        vision_config=vision | {"patch_size": patch, "num_patches": grid**2},
        text_config=text
        | {"vocab_size": 37, "max_position_embeddings": 7, "projection_size": 24, "bos_token_id": 0, "eos_token_id": 1},
    )
    theirs = transformers.Siglip2Model(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    processor = transformers.Siglip2ImageProcessor(patch_size=patch, max_num_patches=max_patches)
    theirs.save_pretrained(tmp_path / "theirs")
    processor.save_pretrained(tmp_path / "theirs")
    ours = siglip_tf.SigLIP.from_checkpoint(tmp_path / "theirs", verbose=False)
    assert ours.max_patches == max_patches
    ours.save_checkpoint(tmp_path / "ours.npz", format="big_vision")
    by_npz = siglip_tf.SigLIP.from_checkpoint(tmp_path / "ours.npz", max_patches=max_patches, verbose=False)
    ids = np.random.default_rng(0).integers(0, 37, (3, 7)).astype(np.int32)
    pictures = random_pictures(30)
    batch = processor([Image.fromarray(picture) for picture in pictures], return_tensors="pt")
    with torch.no_grad():
        wanted = theirs(input_ids=torch.tensor(ids), **batch).logits_per_image.numpy()
    for model in (ours, by_npz):
        prepared = [model.preprocessing.image(picture) for picture in pictures]
        for one, pixels, grid_found in zip(prepared, batch["pixel_values"], batch["spatial_shapes"], strict=True):
            np.testing.assert_array_equal(one["grid"], grid_found)
            count = int(grid_found.prod())
            np.testing.assert_allclose(one["patches"][:count], pixels[:count], rtol=0, atol=1e-6)
        found = model.logits(model.encode_image(pictures), model.encode_text(ids)).numpy()
        exact = {"patches": batch["pixel_values"].numpy(), "grid": batch["spatial_shapes"].numpy()}
        from_their_pixels = model.logits(model.encode_image(exact), model.encode_text(ids)).numpy()
        np.testing.assert_allclose(from_their_pixels, wanted, rtol=0, atol=1e-4)
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)
