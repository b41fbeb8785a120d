import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from siglip_tf import checkpoints
from siglip_tf.checkpoints import CheckpointError

GOLDEN = Path(__file__).parent / "golden" / "hugging_face"


@pytest.fixture
def spoilt(tmp_path):
    """Copies the golden folder and changes its config.json by `change(folder, config)`."""

    def make(change):
        folder = tmp_path / "spoilt"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(GOLDEN, folder)
        config = json.loads((folder / "config.json").read_text())
        change(folder, config)
        (folder / "config.json").write_text(json.dumps(config))
        return folder

    return make


def rewrite(folder, change):
    arrays = load_file(folder / "model.safetensors")
    change(arrays)
    save_file(arrays, folder / "model.safetensors")


def shard(folder, _=None):
    """Splits the weights over two files, as large models are saved."""
    arrays = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names, weight_map = sorted(arrays), {}
    for i, part in enumerate((names[:20], names[20:])):
        file = f"model-{i + 1:05}-of-00002.safetensors"
        save_file({name: arrays[name] for name in part}, folder / file)
        weight_map |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def assert_same_weights(found, wanted):
    assert list(found) == list(wanted)
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name, strict=True)


def test_reads_what_transformers_saved():
    found = checkpoints.read(GOLDEN)
    assert found.format == "hugging_face"
    assert found.architecture == {
        "image": "B/5",
        "image_size": 17,
        "image_pool": "map",
        "image_width": 12,
        "image_depth": 3,
        "image_mlp_dim": 20,
        "image_heads": 3,
        "text": "B",
        "text_length": 7,
        "vocab_size": 37,
        "text_width": 16,
        "text_depth": 2,
        "text_mlp_dim": 24,
        "text_heads": 4,
        "text_head": True,
        "token_bottleneck": None,
    }
    assert found.preprocessing["image"] == {"size": 17, "method": "bicubic_antialias"}
    assert found.notes == ()
    assert_same_weights(checkpoints.read(GOLDEN / "model.safetensors").weights, found.weights)


def test_writes_the_very_arrays_that_transformers_wrote(tmp_path):
    checkpoints.write(tmp_path / "model", checkpoints.read(GOLDEN), format="hugging_face")
    ours, theirs = load_file(tmp_path / "model/model.safetensors"), load_file(GOLDEN / "model.safetensors")
    assert set(ours) == set(theirs)
    for name, array in theirs.items():
        np.testing.assert_array_equal(ours[name], array, err_msg=name, strict=True)
    for file in ("config.json", "preprocessor_config.json"):
        ours, theirs = (json.loads((folder / file).read_text()) for folder in (tmp_path / "model", GOLDEN))
        for key in ("text_config", "vision_config", "size", "image_mean", "resample", "model_type"):
            if "config" in key:  # theirs spells out defaults of its version
                assert ours.get(key, {}).items() <= theirs.get(key, {}).items()
            else:
                assert ours.get(key) == theirs.get(key), key


def test_shards(spoilt):
    assert_same_weights(checkpoints.read(spoilt(shard)).weights, checkpoints.read(GOLDEN).weights)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_widened_with_a_note(spoilt, dtype):
    import ml_dtypes

    half = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}[dtype]
    folder = spoilt(lambda f, _: rewrite(f, lambda a: a.update({n: v.astype(half) for n, v in a.items()})))
    found, exact = checkpoints.read(folder), checkpoints.read(GOLDEN).weights
    assert dtype in found.notes[0]
    for name, array in exact.items():
        np.testing.assert_array_equal(found.weights[name], array.astype(half).astype(np.float32), strict=True)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"image_depth": 12, "image_size": 23, "patch_size": 4, "image_heads": 2},
        {"text_depth": 1, "text_length": 1, "text_heads": 1, "vocab_size": 5},
    ],
)
def test_round_trip_keeps_every_bit(tmp_path, tiny, changes):
    checkpoint = tiny(**changes)
    checkpoints.write(tmp_path / "model", checkpoint, format="hugging_face")
    found = checkpoints.read(tmp_path / "model")
    assert found.architecture == checkpoint.architecture
    assert_same_weights(found.weights, checkpoint.weights)


def test_an_absent_text_head_becomes_the_identity_and_an_absent_bias_zero(tmp_path, tiny):
    checkpoint = tiny(text_width=20, text_heads=4, text_head=False, has_bias=False)
    checkpoints.write(tmp_path / "model", checkpoint, format="hugging_face")
    found = checkpoints.read(tmp_path / "model").weights
    np.testing.assert_array_equal(found["text/head/kernel"], np.eye(20))
    np.testing.assert_array_equal(found["text/head/bias"], np.zeros(20))
    assert found["bias"] == 0


def test_public_variants_are_recognised_without_a_configuration(tmp_path, tiny):
    size = {"width": 192, "depth": 12, "mlp_dim": 768, "heads": 3}
    towers = {f"{tower}_{key}": value for tower in ("image", "text") for key, value in size.items()}
    checkpoint = tiny(**towers, embed_dim=192, image_size=64, patch_size=16)
    checkpoints.write(tmp_path / "model", checkpoint, format="hugging_face")
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / "model" / name).unlink()
    for path in (tmp_path / "model", tmp_path / "model/model.safetensors"):
        found = checkpoints.read(path)
        assert found.architecture == checkpoint.architecture
        assert found.architecture["image"] == "Ti/16"
        assert "3 and 3 attention heads" in found.notes[0]


def test_an_image_tower_alone(spoilt):
    def change(folder, config):
        vision = config.pop("vision_config")
        config.clear()
        config.update(vision, model_type="siglip_vision_model")
        rewrite(folder, lambda a: [a.pop(n) for n in list(a) if not n.startswith("vision_model")])

    found, whole = checkpoints.read(spoilt(change)), checkpoints.read(GOLDEN)
    assert found.towers == ("image",)
    assert_same_weights(found.weights, {n: w for n, w in whole.weights.items() if n.startswith("image/")})


TEXT = {"length": 7, "eos_id": 1}


GEMMA = {"padding_side": "right", "add_eos_token": True, "pad_token": "<pad>"}
TOKENIZERS = [
    ({"tokenizer_class": "SiglipTokenizer"}, ("unicode", 1, "strip"), None),
    (
        {"tokenizer_class": "SiglipTokenizer", "do_lower_case": False, "pad_token": {"content": "<pad>"}},
        ("none", 0, "strip"),
        None,
    ),
    ({"tokenizer_class": "Siglip2Tokenizer", **GEMMA}, ("simple", 0, "keep"), None),
    ({"tokenizer_class": "GemmaTokenizerFast", **GEMMA}, ("simple", 0, "keep"), "GemmaTokenizer, which"),
    ({"tokenizer_class": "GemmaTokenizer", **GEMMA, "do_lower_case": False}, ("none", 0, "keep"), None),
    ({"tokenizer_class": "Siglip2Tokenizer", "pad_token": "<pad>"}, ("simple", 0, "keep"), "padding_side 'left'"),
]


def test_tokenizer_files(spoilt):
    for tokenizer, wanted, note in TOKENIZERS:

        def change(folder, _, tokenizer=tokenizer):
            (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
            (folder / "tokenizer.model").write_bytes(b"model")

        found = checkpoints.read(spoilt(change))
        text = dict(zip(("lower_case", "pad_id", "punctuation"), wanted, strict=True))
        assert found.preprocessing["text"] == {"length": 7, "eos_id": 1, **text}
        assert found.tokenizer == b"model"
        assert len(found.notes) == (note is not None)
        assert note is None or note in found.notes[0]


def test_a_tokenizer_json_that_cannot_be_read_says_what_to_fetch(spoilt):
    found = checkpoints.read(spoilt(lambda folder, _: (folder / "tokenizer.json").write_text('{"model": {}}')))
    assert found.tokenizer is None
    assert "Fetch the model's spiece.model or tokenizer.model" in found.notes[0]


def test_a_configuration_may_leave_defaults_out(spoilt):
    """As the public ones do."""

    def change(_, config):
        for tower in ("vision_config", "text_config"):
            for key in ("hidden_act", "layer_norm_eps", "num_channels", "attention_dropout", "projection_size"):
                config[tower].pop(key, None)

    assert_same_weights(checkpoints.read(spoilt(change)).weights, checkpoints.read(GOLDEN).weights)


def set_in(tower, **values):
    return lambda _, config: config[f"{tower}_config"].update(values)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda _, c: c.update(model_type="clip"), "type 'clip'"),
        (lambda _, c: c.update(model_type="siglip2"), "patch_embedding"),
        (set_in("vision", hidden_act="gelu"), "tanh GELU"),
        (set_in("text", layer_norm_eps=1e-5), "layer_norm_eps 1e-05"),
        (set_in("vision", num_hidden_layers=4), "vision_model.encoder.layers.3.layer_norm1.weight"),
        (set_in("text", num_hidden_layers=1), "unexpected (16):\n  text_model.encoder.layers.1"),
        (set_in("vision", num_attention_heads=5), "does not fit its config.json"),
        (set_in("text", vocab_size=40), "vocab_size 37 (configuration: 40)"),
        (set_in("vision", image_size=[17, 30]), "expected squares"),
        (set_in("vision", image_size=30), "6 x 6 patches"),
        (lambda f, _: rewrite(f, lambda a: a.pop("logit_bias")), "missing (1):\n  logit_bias"),
        (lambda f, _: rewrite(f, lambda a: a.update(more=a["logit_bias"])), "unexpected (1):\n  more"),
        (lambda f, _: (f / "model.safetensors").write_bytes(b"{}"), "truncated"),
        (lambda f, _: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "a pickle"),
        (lambda f, _: (f / "model.safetensors").unlink(), "neither model.safetensors nor"),
        (lambda f, _: [shard(f), (f / "model-00002-of-00002.safetensors").unlink()], "lacks the shard"),
    ],
)
def test_a_wrong_folder_says_what_it_is(spoilt, change, says):
    folder = spoilt(change)
    with pytest.raises(CheckpointError) as error:
        checkpoints.read(folder)
    assert says in str(error.value)


def test_without_configuration_and_no_public_variant(tmp_path):
    shutil.copy(GOLDEN / "model.safetensors", tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"no config.json.*attention heads"):
        checkpoints.read(tmp_path / "model.safetensors")


@pytest.mark.parametrize("changes", [{"image_pool": "tok"}, {"towers": "image"}, {"image_size": (30, 59)}])
def test_what_it_cannot_hold_is_refused(tmp_path, tiny, changes):
    with pytest.raises(ValueError, match="hugging_face"):
        checkpoints.write(tmp_path / "model", tiny(**changes), format="hugging_face")
    assert list(tmp_path.iterdir()) == []


def test_notes_name_what_its_files_cannot_say(tmp_path, tiny):
    text = {"length": 7, "lower_case": "ascii", "eos_id": 1, "pad_id": 1, "punctuation": "keep"}
    preprocessing = {"image": {"size": 50, "method": "big_vision"}, "text": text}
    notes = checkpoints.write(
        tmp_path / "model", dataclasses.replace(tiny(), preprocessing=preprocessing), format="hugging_face"
    )
    assert any("antialiases" in note for note in notes)
