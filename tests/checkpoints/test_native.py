import dataclasses
import json
import zipfile

import numpy as np
import pytest

from siglip_tf import checkpoints
from siglip_tf.checkpoints import CheckpointError


def assert_equal_checkpoints(found, wanted):
    assert found.architecture == json.loads(json.dumps(wanted.architecture))
    assert list(found.weights) == list(wanted.weights)
    for name, array in wanted.weights.items():
        assert found.weights[name].dtype == np.float32
        np.testing.assert_array_equal(found.weights[name], array, err_msg=name, strict=True)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"image_pool": "gap", "image_size": 64, "patch_size": 16},
        {"image_pool": "tok"},
        {"token_bottleneck": 9},
        {"towers": "image"},
        {"towers": "text"},
        {"has_bias": False},
        {"image_depth": 12},
        {"image_size": (30, 59)},
        {"text_width": 20, "text_heads": 4, "text_head": False},
    ],
)
def test_round_trip_keeps_every_bit(tmp_path, tiny, changes):
    checkpoint = dataclasses.replace(
        tiny(**changes), preprocessing={"image": {"method": "big_vision"}}, tokenizer=b"model"
    )
    checkpoints.write(tmp_path / "model", checkpoint)
    found = checkpoints.read(tmp_path / "model")
    assert_equal_checkpoints(found, checkpoint)
    assert (found.preprocessing, found.tokenizer) == (checkpoint.preprocessing, checkpoint.tokenizer)
    assert found.towers == {"image": ("image",), "text": ("text",)}.get(changes.get("towers"), ("image", "text"))


def test_writing_again_replaces_and_leaves_nothing_aside(tmp_path, tiny):
    checkpoints.write(tmp_path / "model", dataclasses.replace(tiny(0), tokenizer=b"old"))
    checkpoints.write(tmp_path / "model", tiny(1))
    found = checkpoints.read(tmp_path / "model")
    assert_equal_checkpoints(found, tiny(1))
    assert found.tokenizer is None
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_a_folder_with_other_files_is_not_replaced(tmp_path, tiny):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="thesis.tex"):
        checkpoints.write(tmp_path / "model", tiny())
    assert [entry.name for entry in tmp_path.rglob("*")] == ["model", "thesis.tex"]


def test_a_failed_write_leaves_the_former_checkpoint(tmp_path, tiny):
    checkpoints.write(tmp_path / "model", tiny(0))
    with pytest.raises(TypeError):
        checkpoints.write(tmp_path / "model", dataclasses.replace(tiny(1), preprocessing={"image": object()}))
    assert_equal_checkpoints(checkpoints.read(tmp_path / "model"), tiny(0))
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_weights_that_do_not_fit_are_listed(tmp_path, tiny):
    checkpoint = tiny()
    weights = dict(checkpoint.weights)
    del weights["image/block_1/mlp/fc1/bias"]
    weights["text/final_norm/gamma"] = weights["text/final_norm/scale"]
    weights["text/final_norm/scale"] = np.zeros(3, np.float32)
    with pytest.raises(CheckpointError) as error:
        checkpoints.write(tmp_path / "model", dataclasses.replace(checkpoint, weights=weights))
    for part in ("missing (1):\n  image/block_1/mlp/fc1/bias", "unexpected (1):\n  text/final_norm/gamma"):
        assert part in str(error.value)
    assert "text/final_norm/scale: (3,), expected (18,)" in str(error.value)


def test_a_lost_last_block_is_noticed(tmp_path, tiny):
    checkpoints.write(tmp_path / "model", tiny())
    config = json.loads((tmp_path / "model/config.json").read_text())
    config["dimensions"]["image_depth"] = 4
    (tmp_path / "model/config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="image/block_3/attention_norm/scale"):
        checkpoints.read(tmp_path / "model")


def test_damaged_folders_say_what_they_are(tmp_path, tiny):
    folder = tmp_path / "model"
    checkpoints.write(folder, tiny())
    weights = folder / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="damaged or truncated"):
        checkpoints.read(folder)
    weights.unlink()
    with pytest.raises(CheckpointError, match="no weights.safetensors"):
        checkpoints.read(folder)
    (folder / "config.json").write_text('{"format": "siglip_tf", "format_version": 99}')
    with pytest.raises(CheckpointError, match="Update siglip_tf"):
        checkpoints.read(folder)
    (folder / "config.json").write_text('{"a": 1')
    with pytest.raises(CheckpointError, match="not JSON"):
        checkpoints.read(folder)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match="no config.json"):
        checkpoints.read(folder)
    with pytest.raises(FileNotFoundError):
        checkpoints.read(tmp_path / "absent")


def torch_archive(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: path.write_bytes(b""), "an empty file"),
        (lambda path: path.write_bytes(b"\x80\x04\x95abc"), "a pickle"),
        (lambda path: path.write_bytes(b"PK\x03\x04 and then nothing"), "truncated zip"),
        (lambda path: path.write_bytes((10**6).to_bytes(8, "little") + b'{"a":'), "truncated safetensors"),
        (lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n"), "Git LFS pointer"),
        (lambda path: path.write_bytes(b"\x89PNG\r\n"), "unknown kind"),
        (lambda path: path.write_bytes(b"\x93NUMPY\x01\x00"), "single .npy"),
        (torch_archive, "PyTorch"),
    ],
)
def test_other_files_say_what_they_are(tmp_path, make, says):
    path = tmp_path / "file.npz"
    make(path)
    with pytest.raises(CheckpointError, match=says):
        checkpoints.read(path)
