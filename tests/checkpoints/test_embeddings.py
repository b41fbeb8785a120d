"""The models of other libraries and the model made here of their files give the same embeddings and logits."""

from pathlib import Path

import keras
import numpy as np
import pytest

import siglip_tf
from siglip_tf import checkpoints

GOLDEN = Path(__file__).parent / "golden"


def golden_inputs():
    """The inputs of `golden/make_*.py`."""
    rng = np.random.default_rng(7)
    images = rng.uniform(-1, 1, (2, 17, 17, 3)).astype(np.float32)
    return images, rng.integers(0, 37, (2, 7)).astype(np.int32)


def model_of(checkpoint):
    model = siglip_tf.SigLIP(**checkpoint.architecture)
    model.assign_weights(checkpoint.weights)
    return model


def normalised(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def assert_equal_outputs(model, images, texts, wanted):
    image_embeddings, text_embeddings = model.encode_image(images), model.encode_text(texts)
    np.testing.assert_allclose(image_embeddings, wanted["image"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(text_embeddings, wanted["text"], rtol=0, atol=1e-5)
    # Logits are ten times as large as embeddings, and more where the temperature is.
    logits = np.asarray(wanted["logits"])
    np.testing.assert_allclose(
        model.logits(image_embeddings, text_embeddings), logits, rtol=0, atol=1e-5 * abs(logits).max()
    )


def _each_value_once(first, second):
    """Every combination; the fast ones hold each value of both at least once."""
    for i, one in enumerate(first):
        for j, other in enumerate(second):
            fast = i % len(second) == j % len(first)
            yield pytest.param(one, other, marks=() if fast else pytest.mark.slow)


BIG_VISION = ("big_vision_plain", "big_vision_scanned_bfloat16", "big_vision_very_old_text", "big_vision_no_text_head")


@pytest.mark.parametrize(("name", "format"), _each_value_once(BIG_VISION, checkpoints.FORMATS))
def test_big_vision(tmp_path, name, format):
    checkpoint = checkpoints.with_image_size(checkpoints.read(GOLDEN / f"{name}.npz"), 17)
    checkpoints.write(tmp_path / "model", checkpoint, format=format)  # by way of every other format too
    checkpoint = checkpoints.with_image_size(checkpoints.read(tmp_path / "model"), 17)
    outputs = np.load(GOLDEN / "big_vision_outputs.npz")
    wanted = {part: outputs[f"{name}/{part}"] for part in ("image", "text", "logits")}
    assert_equal_outputs(model_of(checkpoint), *golden_inputs(), wanted)


@pytest.mark.parametrize("name", ["augreg_tok", "augreg_gap"])
def test_augreg(name):
    checkpoint = checkpoints.with_image_size(checkpoints.read(GOLDEN / f"{name}.npz"), 17)
    model = siglip_tf.SigLIP(**checkpoint.architecture, text="mu", text_length=2, vocab_size=3)
    own = {name: variable.numpy() for name, variable in model.named_weights().items()}
    model.assign_weights(own | checkpoint.weights)
    wanted = np.load(GOLDEN / "big_vision_outputs.npz")[f"{name}/image"]
    np.testing.assert_allclose(model.encode_image(golden_inputs()[0]), normalised(wanted), rtol=0, atol=1e-5)


def test_hugging_face():
    model = model_of(checkpoints.read(GOLDEN / "hugging_face"))
    assert_equal_outputs(model, *golden_inputs(), np.load(GOLDEN / "hugging_face_outputs.npz"))


SIZES = [
    {},
    {"image_depth": 12, "image_size": 23, "patch_size": 4, "image_heads": 2, "image_width": 32, "embed_dim": 32},
    {"text_depth": 1, "text_length": 1, "text_heads": 1, "vocab_size": 5, "image_size": 14, "image_depth": 1},
]


def inputs(checkpoint, rng):
    a = checkpoint.architecture
    images = rng.uniform(-1, 1, (3, a["image_size"], a["image_size"], 3)).astype(np.float32)
    return images, rng.integers(0, a["vocab_size"], (3, a["text_length"])).astype(np.int32)


@pytest.mark.parametrize("changes", [SIZES[2], *(pytest.param(size, marks=pytest.mark.slow) for size in SIZES[:2])])
def test_keras_hub_runs_what_is_written_here(tmp_path, tiny, rng, changes):
    import keras_hub

    checkpoint = tiny(**changes)
    images, texts = inputs(checkpoint, rng)
    checkpoints.write(tmp_path / "model", checkpoint, format="keras_hub")
    backbone = keras_hub.models.SigLIPBackbone.from_preset(str(tmp_path / "model"))
    wanted = {
        "image": normalised(backbone.vision_encoder({"images": images})),
        "text": normalised(backbone.text_encoder({"token_ids": texts})),
        "logits": backbone({"images": images, "token_ids": texts})["vision_logits"],
    }
    assert_equal_outputs(model_of(checkpoint), images, texts, wanted)
    assert_equal_outputs(model_of(checkpoints.read(tmp_path / "model")), images, texts, wanted)


def transformers_outputs(folder, images, texts):
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    model, report = transformers.SiglipModel.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    with torch.no_grad():
        found = model.eval()(
            input_ids=torch.tensor(texts), pixel_values=torch.tensor(images).permute(0, 3, 1, 2).contiguous()
        )
    return {"image": found.image_embeds, "text": found.text_embeds, "logits": found.logits_per_image}


@pytest.mark.slow
@pytest.mark.parametrize("changes", [*SIZES, {"token_bottleneck": 9}, {"vocab_size": 256_000, "image_depth": 1}])
def test_transformers_runs_what_is_written_here(tmp_path, tiny, rng, changes):
    checkpoint = tiny(**changes)
    images, texts = inputs(checkpoint, rng)
    checkpoints.write(tmp_path / "model", checkpoint, format="hugging_face")
    wanted = transformers_outputs(tmp_path / "model", images, texts)
    assert_equal_outputs(model_of(checkpoint), images, texts, wanted)
    assert_equal_outputs(model_of(checkpoints.read(tmp_path / "model")), images, texts, wanted)


@pytest.mark.slow
@pytest.mark.parametrize("changes", SIZES)
def test_reads_models_that_transformers_makes(tmp_path, tiny, rng, changes):
    import torch
    from transformers import SiglipConfig, SiglipModel

    wish = tiny(**changes)
    checkpoints.write(tmp_path / "wish", wish, format="hugging_face")
    torch.manual_seed(0)
    theirs = SiglipModel(SiglipConfig.from_pretrained(tmp_path / "wish"))
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="50kB")
    found = checkpoints.read(tmp_path / "theirs")
    assert found.architecture == wish.architecture
    images, texts = inputs(found, rng)
    wanted = transformers_outputs(tmp_path / "theirs", images, texts)
    assert_equal_outputs(model_of(found), images, texts, wanted)

    checkpoints.write(tmp_path / "back", found, format="hugging_face")
    again = SiglipModel.from_pretrained(tmp_path / "back").state_dict()
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(again[name], tensor), name


@pytest.mark.parametrize(
    ("image_size", "name"), _each_value_once([None, 30, (20, 30)], ["big_vision_plain.npz", "hugging_face"])
)
def test_from_checkpoint_at_any_resolution(tmp_path, capsys, name, image_size):
    """By the model's own way in and out; the files here hold no vocabulary."""
    model = siglip_tf.SigLIP.from_checkpoint(GOLDEN / name, image_size=image_size)
    out = capsys.readouterr().out
    assert model.preprocessing.text is None
    assert (model.preprocessing.image is None) == isinstance(image_size, tuple)
    assert "20 x 30" in out if isinstance(image_size, tuple) else "pixels, pool" in out
    model.save_checkpoint(tmp_path / "model")
    again = siglip_tf.SigLIP.from_checkpoint(tmp_path / "model", verbose=False)
    assert again.image_size == model.image_size
    for weight, variable in again.named_weights().items():
        np.testing.assert_array_equal(variable, model.named_weights()[weight], err_msg=weight, strict=True)


@pytest.mark.slow
def test_a_whole_model_is_restored(tmp_path, tiny):
    """Weights out of a model and in again, in every format, to the bit."""
    keras.utils.set_random_seed(3)
    arguments = tiny(image_size=42).architecture
    model = siglip_tf.SigLIP(**arguments)
    weights = {name: variable.numpy() for name, variable in model.named_weights().items()}
    checkpoint = checkpoints.Checkpoint(arguments, weights)
    for format in checkpoints.FORMATS:
        checkpoints.write(tmp_path / format, checkpoint, format=format)
        again = model_of(checkpoints.read(tmp_path / format))
        for name, variable in again.named_weights().items():
            np.testing.assert_array_equal(variable, weights[name], err_msg=f"{format} {name}", strict=True)
