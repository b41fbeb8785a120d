"""Image processors as transformers saves them: what a file says is done, refused, or noted."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from siglip_tf import checkpoints
from siglip_tf.checkpoints import CheckpointError

GOLDEN = Path(__file__).parent / "golden" / "hugging_face"


@pytest.fixture
def read_with(tmp_path):
    """Reads the golden folder with a changed image processor, kept where transformers 5 or 4 keeps it."""
    golden = json.loads((GOLDEN / "preprocessor_config.json").read_text())

    def read(resize=None, version=5, **changes):
        folder = tmp_path / "model"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(GOLDEN, folder)
        processor = {key: value for key, value in (golden | changes).items() if value is not ...}
        (folder / "preprocessor_config.json").unlink()
        if version == 5:
            content = {"image_processor": processor, "processor_class": "SiglipProcessor"}
            (folder / "processor_config.json").write_text(json.dumps(content))
        else:
            (folder / "preprocessor_config.json").write_text(json.dumps(processor))
        return checkpoints.read(folder, resize=resize)

    return read


@pytest.mark.parametrize("version", [4, 5])
def test_resample_is_what_the_file_says(read_with, version):
    wanted = {2: "bilinear_antialias", 3: "bicubic_antialias", ...: "bicubic_antialias", None: "bicubic_antialias"}
    for resample, method in wanted.items():
        found = read_with(version=version, resample=resample)
        assert found.preprocessing["image"] == {"size": 17, "method": method}
        assert found.notes == ()
    vit = read_with(version=version, resample=..., image_processor_type="ViTImageProcessorFast")
    assert vit.preprocessing["image"]["method"] == "bilinear_antialias"
    chosen = read_with(resize="big_vision", version=version, resample=2)
    assert chosen.preprocessing["image"]["method"] == "big_vision"
    assert any("as asked" in note for note in chosen.notes)


REFUSED = [
    ({"resample": 0}, "nearest"),
    ({"resample": 1}, "Lanczos"),
    ({"resample": 4}, "box"),
    ({"resample": 5}, "Hamming"),
    ({"resample": 9}, "resample 9"),
    ({"resample": "bilinear"}, "resample 'bilinear'"),
    ({"size": {"shortest_edge": 17}}, "shortest_edge"),
    ({"size": {"longest_edge": 17}}, "longest_edge"),
    ({"do_center_crop": True, "crop_size": {"height": 9, "width": 9}}, "crops the center"),
    ({"do_center_crop": True}, "crops the center"),
    ({"do_pad": True}, "do_pad"),
    ({"image_processor_type": "CLIPImageProcessor"}, "CLIPImageProcessor"),
    ({"image_processor_type": "Siglip2ImageProcessor"}, "does not fit the model"),
]


def test_what_changes_the_shape_of_pictures_otherwise_is_refused_or_chosen(read_with):
    for changes, says in REFUSED:
        with pytest.raises(CheckpointError, match=says) as error:
            read_with(**changes)
        assert "resize=" in str(error.value)
        found = read_with(resize="bicubic_antialias", **changes)
        assert found.preprocessing["image"]["method"] == "bicubic_antialias"
        assert any(says in note for note in found.notes)


def test_notes(read_with):
    for changes, says in (
        ({"do_resize": False}, "does not resize"),
        ({"do_convert_rgb": False}, "become RGB"),
        ({"do_convert_rgb": None}, "become RGB"),
        ({"size": {"height": 25, "width": 25}}, "25 x 25"),
    ):
        (note,) = read_with(**changes).notes
        assert says in note
    assert read_with(do_center_crop=True, crop_size={"height": 17, "width": 17}).notes == ()
    for changes in ({"image_std": [0, 1, 1]}, {"image_mean": [1, 2]}, {"rescale_factor": "no"}, {"image_mean": "x"}):
        with pytest.raises(CheckpointError, match="image_|rescale"):
            read_with(**changes)


def test_the_newer_file_counts(tmp_path):
    shutil.copytree(GOLDEN, tmp_path / "model")
    newer = {"image_processor": {"resample": 2, "image_processor_type": "SiglipImageProcessor"}}
    (tmp_path / "model/processor_config.json").write_text(json.dumps(newer))
    found = checkpoints.read(tmp_path / "model")
    assert found.preprocessing["image"]["method"] == "bilinear_antialias"
    assert "differ" in found.notes[0]
    (tmp_path / "model/processor_config.json").write_text('{"processor_class": "SiglipProcessor"}')
    assert checkpoints.read(tmp_path / "model").preprocessing["image"]["method"] == "bicubic_antialias"
    (tmp_path / "model/processor_config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="not a JSON object"):
        checkpoints.read(tmp_path / "model")


NORMALIZATIONS = [
    {"image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28]},
    {"do_normalize": False},
    {"rescale_factor": 1 / 127.5},
    {"do_rescale": False, "image_mean": [127.5] * 3, "image_std": 255.0},
    {"image_std": 0.25},
]


def test_other_means_and_deviations_are_folded_into_the_patch_embedding(read_with, rng):
    """The oracle is transformers' formula: ((pixel * factor) - mean) / deviation, in float64."""
    golden = checkpoints.read(GOLDEN).weights
    pixels = rng.integers(0, 256, (5, 5, 3))
    for changes in NORMALIZATIONS:
        found = read_with(**changes)
        options = {"do_normalize": True, "do_rescale": True, "rescale_factor": 1 / 255} | changes
        theirs = pixels * (options["rescale_factor"] if options["do_rescale"] else 1.0)
        if options["do_normalize"]:
            theirs = (theirs - options.get("image_mean", 0.5)) / np.array(options.get("image_std", 0.5))
        kernel, bias = (golden[f"image/patch_embedding/{part}"].astype(np.float64) for part in ("kernel", "bias"))
        wanted = np.einsum("hwc,hwcd->d", theirs, kernel) + bias
        kernel, bias = (found.weights[f"image/patch_embedding/{part}"] for part in ("kernel", "bias"))
        ours = np.einsum("hwc,hwcd->d", pixels / 127.5 - 1, kernel.astype(np.float64)) + bias
        np.testing.assert_allclose(ours, wanted, rtol=1e-5, atol=1e-5)
        assert "patch embedding was changed" in found.notes[0]
        assert all(found.weights[name] is not None for name in golden)


@pytest.mark.slow
def test_embeddings_of_a_fine_texture_equal_transformers(read_with, tmp_path):
    """Pixels to embeddings, with what transformers itself saves: bicubic read as bilinear has a cosine of 0.55."""
    import torch
    import transformers

    import siglip_tf

    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (90, 120, 3)).astype(np.uint8)
    for changes in ({"resample": 2}, {"resample": 3}, *NORMALIZATIONS):
        read_with(**changes)
        model = siglip_tf.SigLIP.from_checkpoint(tmp_path / "model", verbose=False)
        ours = np.asarray(model.encode_image(model.preprocessing.image(picture)[None]))
        processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "model")
        pixels = processor(Image.fromarray(picture), return_tensors="pt")["pixel_values"]
        theirs = transformers.SiglipModel.from_pretrained(tmp_path / "model").eval()
        with torch.no_grad():
            wanted = theirs.vision_model(pixels).pooler_output.numpy()
        wanted /= np.linalg.norm(wanted)
        assert (ours * wanted).sum() > 0.999, changes
