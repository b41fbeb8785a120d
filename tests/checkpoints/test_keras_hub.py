"""KerasHub itself makes and loads the presets here, and is imported by the tests that use it: that takes seconds."""

import dataclasses
import json
import shutil

import keras
import numpy as np
import pytest

from siglip_tf import checkpoints
from siglip_tf.checkpoints import CheckpointError, architecture
from tests.vocabulary import trained


def make_backbone(a):
    """A KerasHub model of a tiny checkpoint's architecture, with weights away from their initial values."""
    import keras_hub

    vision = keras_hub.models.SigLIPVisionEncoder(
        patch_size=a["patch_size"],
        hidden_dim=a["image_width"],
        num_layers=a["image_depth"],
        num_heads=a["image_heads"],
        intermediate_dim=a["image_mlp_dim"],
        image_shape=(a["image_size"], a["image_size"], 3),
        name="vision_encoder",
    )
    text = keras_hub.models.SigLIPTextEncoder(
        vocabulary_size=a["vocab_size"],
        embedding_dim=a["text_width"],
        hidden_dim=a["text_width"],
        num_layers=a["text_depth"],
        num_heads=a["text_heads"],
        intermediate_dim=a["text_mlp_dim"],
        max_sequence_length=a["text_length"],
        projection_dim=a["embed_dim"],
        name="text_encoder",
    )
    backbone = keras_hub.models.SigLIPBackbone(vision_encoder=vision, text_encoder=text)
    rng = np.random.default_rng(1)
    for weight in backbone.trainable_weights:
        weight.assign(weight + 0.1 * rng.normal(size=weight.shape))
    return backbone


def vocabulary():
    return trained(["a photo of a cat", "the quick brown fox jumped over the lazy dog"], 45)


@pytest.fixture
def preset(tmp_path, tiny):
    backbone = make_backbone(architecture.of(tiny()))
    backbone.save_to_preset(str(tmp_path / "theirs"))
    return backbone, tmp_path / "theirs"


def test_reads_a_preset_and_writes_it_back_to_the_bit(tmp_path, tiny, preset):
    import keras_hub

    backbone, folder = preset
    found = checkpoints.read(folder)
    assert found.format == "keras_hub"
    assert found.architecture == tiny().architecture
    kernel = backbone.vision_encoder.encoder_layers[2].self_attn.key_dense.kernel
    np.testing.assert_array_equal(found.weights["image/block_2/attention/key/kernel"], kernel)
    np.testing.assert_array_equal(found.weights["bias"], backbone.siglip_head.logit_bias, strict=False)

    checkpoints.write(tmp_path / "ours", found, format="keras_hub")
    again = keras_hub.models.SigLIPBackbone.from_preset(str(tmp_path / "ours"))
    assert len(again.weights) == len(backbone.weights)
    for ours, theirs in zip(again.weights, backbone.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs, err_msg=ours.path, strict=True)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"image_depth": 12, "image_size": 23, "patch_size": 4, "image_heads": 2},
        {"text_depth": 1, "text_length": 1, "text_heads": 1, "vocab_size": 5},
        {"text_width": 20, "text_heads": 4, "text_head": False},
    ],
)
def test_round_trip_keeps_every_bit(tmp_path, tiny, changes):
    checkpoint = tiny(**changes)
    checkpoints.write(tmp_path / "model", checkpoint, format="keras_hub")
    found = checkpoints.read(tmp_path / "model")
    for name, array in checkpoint.weights.items():
        np.testing.assert_array_equal(found.weights[name], array, err_msg=name, strict=True)
    assert set(found.weights) - set(checkpoint.weights) <= {"text/head/kernel", "text/head/bias"}


# KerasHub leaves the vocabulary's file open.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("method", ["big_vision", "bicubic_antialias"])
def test_preprocessor_and_vocabulary_go_along(tmp_path, tiny, method):
    import keras_hub

    text = {"length": 7, "lower_case": "ascii", "eos_id": 1, "pad_id": 1, "punctuation": "strip"}
    preprocessing = {"image": {"size": 50, "method": method}, "text": text}
    checkpoint = dataclasses.replace(tiny(vocab_size=45), preprocessing=preprocessing, tokenizer=vocabulary())
    assert checkpoints.write(tmp_path / "model", checkpoint, format="keras_hub") == ()
    found = checkpoints.read(tmp_path / "model")
    assert (found.preprocessing, found.tokenizer, found.notes) == (preprocessing, checkpoint.tokenizer, ())

    preprocessor = keras_hub.models.SigLIPPreprocessor.from_preset(str(tmp_path / "model"))
    batch = preprocessor({"prompts": ["A photo of a cat!"], "images": np.full((1, 80, 60, 3), 255.0)})
    assert batch["token_ids"].shape == (1, 7)
    np.testing.assert_allclose(batch["images"], np.ones((1, 50, 50, 3)), atol=1e-6)


def test_bfloat16_preset(tmp_path, tiny):
    keras.config.set_dtype_policy("bfloat16")
    backbone = make_backbone(architecture.of(tiny()))
    backbone.save_to_preset(str(tmp_path / "theirs"))
    found = checkpoints.read(tmp_path / "theirs").weights["text/head/kernel"]
    np.testing.assert_array_equal(found, np.asarray(backbone.text_encoder.head.kernel, np.float32), strict=True)


def test_wrong_folders_say_what_they_are(tmp_path, preset):
    _, folder = preset

    def spoil(change):
        target = tmp_path / "spoilt"
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(folder, target)
        config = json.loads((target / "config.json").read_text())
        change(target, config)
        (target / "config.json").write_text(json.dumps(config))
        with pytest.raises(CheckpointError) as error:
            checkpoints.read(target)
        return str(error.value)

    def cut(target, config):
        content = (target / "model.weights.h5").read_bytes()
        (target / "model.weights.h5").write_bytes(content[: len(content) // 2])

    assert "KerasHub BertBackbone" in spoil(lambda _, config: config.update(class_name="BertBackbone"))
    assert "truncated" in spoil(cut)
    assert "model.weights.json" in spoil(lambda target, _: (target / "model.weights.h5").unlink())

    def vision(config):
        return config["config"]["vision_encoder"]["config"]

    assert "missing" in spoil(lambda _, config: vision(config).update(num_layers=4))
    assert "unexpected" in spoil(lambda _, config: vision(config).update(num_layers=2))
    assert "image_heads 5" in spoil(lambda _, config: vision(config).update(num_heads=4))
    assert "3 x 3" not in spoil(lambda _, config: vision(config).update(image_shape=[80, 80, 3]))
    assert "tanh GELU" in spoil(lambda _, config: vision(config).update(intermediate_activation="relu"))


@pytest.mark.parametrize("changes", [{"image_pool": "gap"}, {"towers": "image"}, {"image_size": (30, 59)}])
def test_what_it_cannot_hold_is_refused(tmp_path, tiny, changes):
    with pytest.raises(ValueError, match="keras_hub"):
        checkpoints.write(tmp_path / "model", tiny(**changes), format="keras_hub")
    assert list(tmp_path.iterdir()) == []
