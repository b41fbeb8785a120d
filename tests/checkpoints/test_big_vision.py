import dataclasses
from pathlib import Path

import numpy as np
import pytest

from siglip_tf import checkpoints
from siglip_tf.checkpoints import CheckpointError

GOLDEN = Path(__file__).parent / "golden"


def assert_same_weights(found, wanted):
    assert list(found) == list(wanted)
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name, strict=True)


def resave(path, source, change):
    """The npz `source` with its dict of arrays changed in place by `change`."""
    arrays = dict(np.load(source, allow_pickle=False))
    change(arrays)
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"image_pool": "gap"},
        {"image_pool": "tok"},
        {"image_depth": 11},
        {"has_bias": False},
        {"towers": "image"},
        {"towers": "text"},
        {"text_width": 20, "text_heads": 4, "text_head": False},
    ],
)
def test_round_trip_keeps_every_bit(tmp_path, tiny, changes):
    checkpoint = dataclasses.replace(tiny(image_size=42, **changes), tokenizer=b"model")
    checkpoints.write(tmp_path / "model.npz", checkpoint, format="big_vision")
    found = checkpoints.read(tmp_path / "model.npz")
    assert found.format == "big_vision"
    assert found.tokenizer == b"model"
    assert found.architecture == checkpoint.architecture
    assert_same_weights(found.weights, checkpoint.weights)


def test_architecture_and_names_of_its_own_file():
    found = checkpoints.read(GOLDEN / "big_vision_plain.npz")
    assert found.architecture == {
        "image": "B/5",
        "image_size": 15,
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
    arrays = np.load(GOLDEN / "big_vision_plain.npz")
    np.testing.assert_array_equal(
        found.weights["image/block_2/mlp/fc2/kernel"],
        arrays["img/Transformer/encoderblock_2/MlpBlock_0/Dense_1/kernel"],
    )
    assert found.weights["log_temperature"] == arrays["t"][0]
    assert found.notes == ()


def test_writes_the_very_arrays_that_its_own_code_wrote(tmp_path):
    checkpoints.write(tmp_path / "a.npz", checkpoints.read(GOLDEN / "big_vision_plain.npz"), format="big_vision")
    ours, theirs = np.load(tmp_path / "a.npz"), np.load(GOLDEN / "big_vision_plain.npz")
    assert {name.removeprefix("params/") for name in ours.files} == set(theirs.files)
    for name in theirs.files:
        np.testing.assert_array_equal(ours[f"params/{name}"], theirs[name], strict=True)


def test_notes_say_what_was_done():
    notes = " ".join(checkpoints.read(GOLDEN / "big_vision_scanned_bfloat16.npz").notes)
    assert "bfloat16" in notes
    assert "Left out 1 arrays" in notes
    assert "position embedding" in " ".join(checkpoints.read(GOLDEN / "big_vision_very_old_text.npz").notes)
    assert "head/kernel" in " ".join(checkpoints.read(GOLDEN / "augreg_tok.npz").notes)


def test_a_text_tower_without_head_stays_without():
    found = checkpoints.read(GOLDEN / "big_vision_no_text_head.npz")
    assert found.architecture["text_head"] is False
    assert not any(name.startswith("text/head") for name in found.weights)


@pytest.mark.parametrize(("vocab_size", "pad_id"), [(32_000, 1), (250_000, 1), (256_000, 0)])
def test_pad_id_follows_the_vocabulary(tmp_path, tiny, vocab_size, pad_id):
    checkpoints.write(tmp_path / "model.npz", tiny(vocab_size=vocab_size), format="big_vision")
    text = checkpoints.read(tmp_path / "model.npz").preprocessing["text"]
    assert text == {"length": 7, "lower_case": "ascii", "eos_id": 1, "pad_id": pad_id, "punctuation": "keep"}


@pytest.mark.parametrize(("side", "size"), [(14, 224), (16, 224), (27, 384), (32, 512), (9, 9 * 14)])
def test_resolution_is_the_public_one_that_fits_the_grid(tmp_path, tiny, side, size):
    patch = 16 if side in (32,) or (side, size) == (14, 224) else 14
    checkpoints.write(tmp_path / "model.npz", tiny(image_size=side * patch, patch_size=patch), format="big_vision")
    assert checkpoints.read(tmp_path / "model.npz").architecture["image_size"] == size


def test_bottleneck_is_multiplied_out(tmp_path, tiny):
    checkpoint = tiny(token_bottleneck=9)
    checkpoints.write(tmp_path / "model.npz", checkpoint, format="big_vision")
    found = checkpoints.read(tmp_path / "model.npz")
    table = np.float64(checkpoint.weights["text/token_embedding/embedding"]) @ np.float64(
        checkpoint.weights["text/token_embedding/projection"]
    )
    np.testing.assert_allclose(found.weights["text/token_embedding/embedding"], table, rtol=1e-5, atol=1e-6)
    assert found.architecture["token_bottleneck"] is None


def test_bert_text_tower_of_lit_is_left_out_with_a_note(tmp_path):
    def change(arrays):
        for name in [name for name in arrays if name.startswith("txt/")]:
            del arrays[name]
        arrays["txt/BertModel_0/pooler/kernel"] = np.zeros((4, 4), np.float32)

    found = checkpoints.read(resave(tmp_path / "lit.npz", GOLDEN / "big_vision_plain.npz", change))
    assert found.towers == ("image",)
    assert "BERT" in found.notes[0]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda a: a.pop("img/Transformer/encoderblock_1/LayerNorm_0/scale"), "missing (1):\n  img/Transformer/enc"),
        (lambda a: a.update({"img/head/kernel": np.zeros((12, 9), np.float32)}), "unexpected (1):\n  img/head/kernel"),
        (lambda a: a.update({"txt/head/bias": np.zeros(5, np.float32)}), "text/head/bias: (5,), expected (12,)"),
        (lambda a: a.update({"txt/head/kernel": np.zeros((16, 9), np.float32)}), "texts in 9 and images in 12"),
        (lambda a: a.update({"img/embedding/kernel": np.zeros((76, 12), np.float32)}), "(P * P * 3, width)"),
        (lambda a: a.update({"img/pos_embedding": np.zeros((3, 4, 12), np.float32)}), "3 x 4 positions"),
        (lambda a: a.update({"img/pos_embedding": np.zeros((1, 8, 12), np.float32)}), "no square grid"),
        (lambda a: a.update({"t": np.array(["a"])}), "expected a float array"),
        (lambda a: a.update({"t": np.array([None], object)}), "Python objects"),
        (lambda a: [a.pop(name) for name in list(a) if name.startswith("img/Transformer")], "missing"),
    ],
)
def test_a_wrong_file_says_what_it_is(tmp_path, change, says):
    with pytest.raises(CheckpointError) as error:
        checkpoints.read(resave(tmp_path / "wrong.npz", GOLDEN / "big_vision_plain.npz", change))
    assert says in str(error.value)


def test_other_and_damaged_npz_files(tmp_path):
    np.savez(tmp_path / "other.npz", weights=np.zeros(3), bias=np.zeros(1))
    with pytest.raises(CheckpointError, match=r"other arrays \(weights, bias"):
        checkpoints.read(tmp_path / "other.npz")
    content = (GOLDEN / "big_vision_plain.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="truncated"):
        checkpoints.read(tmp_path / "cut.npz")
    torn = bytearray(content)
    torn[len(content) // 3] ^= 0xFF
    (tmp_path / "torn.npz").write_bytes(bytes(torn))
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoints.read(tmp_path / "torn.npz")


def test_what_it_cannot_say(tmp_path, tiny):
    with pytest.raises(ValueError, match="square images"):
        checkpoints.write(tmp_path / "model.npz", tiny(image_size=(30, 59)), format="big_vision")
    notes = checkpoints.write(tmp_path / "model.npz", tiny(image_size=50), format="big_vision")
    assert "42 pixels, not 50" in notes[1]


def test_a_failed_write_leaves_nothing(tmp_path, tiny, monkeypatch):
    monkeypatch.setattr(np.lib.format, "write_array", lambda *_, **__: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        checkpoints.write(tmp_path / "model.npz", tiny(), format="big_vision")
    assert list(tmp_path.iterdir()) == []
