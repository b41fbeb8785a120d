"""Random damage to checkpoint files: read, or refused in one sentence; never another error, never a wait.

What bytes are flipped, cut, swapped or appended follows from a seed, so that a failure can be had again.
"""

import json
import random
import shutil
import time
from pathlib import Path

import pytest

from siglip_tf import checkpoints
from siglip_tf.checkpoints import CheckpointError
from tests.checkpoints.test_tokenizer_json import GEMMA, trained
from tools import convert

GOLDEN = Path(__file__).parent / "golden"
JSON_FILES = ("config.json", "preprocessor_config.json", "processor_config.json", "tokenizer_config.json",
              "tokenizer.json", "model.safetensors.index.json")  # fmt: skip
_SECONDS = 20


def damaged(data: bytes, chosen: random.Random) -> bytes:
    """The bytes with one to four faults of a random kind and place."""
    data = bytearray(data)
    for _ in range(chosen.randint(1, 4)):
        kind, at = chosen.choice(("flip", "cut", "swap", "append", "zero", "repeat")), chosen.randrange(len(data) + 1)
        # Half of the places lie in the first part, where headers and names stand.
        at = at if chosen.random() < 0.5 else min(at, chosen.randrange(1, 2000))
        if kind == "flip" and at < len(data):
            data[at] ^= 1 << chosen.randrange(8)
        elif kind == "cut":
            del data[at : at + chosen.choice((1, 7, 100, 10**9))]
        elif kind == "swap":
            part = bytes(data[at : at + 16])
            del data[at : at + 16]
            data[len(data) // 2 : len(data) // 2] = part
        elif kind == "append":
            data += chosen.randbytes(chosen.choice((1, 64)))
        elif kind == "zero":
            data[at : at + 8] = bytes(len(data[at : at + 8]))
        else:
            data[at:at] = data[at : at + 50]
    return bytes(data)


def wrong_values(content, chosen: random.Random):
    """JSON with a value replaced, a key dropped or an element repeated somewhere."""
    values = (None, True, -1, 0, 1.5, 10**400, "", "x", [], {}, [[]], {"a": 1}, float("nan"), [3] * 5)
    if isinstance(content, dict) and content and chosen.random() < 0.9:
        key = chosen.choice(list(content))
        kind = chosen.random()
        if kind < 0.2:
            return {name: value for name, value in content.items() if name != key}
        return content | {key: wrong_values(content[key], chosen) if kind < 0.8 else chosen.choice(values)}
    if isinstance(content, list) and content and chosen.random() < 0.8:
        at = chosen.randrange(len(content))
        return [*content[:at], wrong_values(content[at], chosen), *content[at:]]
    return chosen.choice(values)


def read_or_refuse(path: Path) -> bool:
    """Whether it was read; anything but a CheckpointError in time fails the test."""
    start = time.monotonic()
    try:
        checkpoints.read(path)
    except CheckpointError as error:
        assert str(error)
        return False
    finally:
        assert time.monotonic() - start < _SECONDS
    return True


def whole_folder(folder: Path) -> Path:
    """A Hugging Face folder with every kind of file that is read, its weights in two shards."""
    from safetensors.numpy import load_file, save_file

    from siglip_tf.checkpoints.tokenizer_json import to_json

    shutil.copytree(GOLDEN / "hugging_face", folder)
    arrays = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(arrays)
    weight_map = {name: f"model-{i % 2}.safetensors" for i, name in enumerate(names)}
    for file in set(weight_map.values()):
        save_file({name: arrays[name] for name in names if weight_map[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    processor = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": processor}))
    (folder / "tokenizer.json").write_text(json.dumps(to_json(trained(**GEMMA), "unicode", 1)))
    tokenizer = {"tokenizer_class": "Siglip2Tokenizer", "pad_token": "<pad>", "padding_side": "right"}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer | {"add_eos_token": True}))
    return folder


def corrupt(tmp_path: Path, rounds: int) -> None:
    folder = whole_folder(tmp_path / "whole")
    assert read_or_refuse(folder)
    safetensors = (GOLDEN / "hugging_face/model.safetensors").read_bytes()
    npz = [path.read_bytes() for path in sorted(GOLDEN.glob("big_vision_*.npz")) if "outputs" not in path.name]
    (tmp_path / "one").mkdir()
    shutil.copy(GOLDEN / "hugging_face/config.json", tmp_path / "one")
    refused = 0
    for seed in range(rounds):
        chosen = random.Random(seed)
        file = tmp_path / "model.npz"
        file.write_bytes(damaged(npz[seed % len(npz)], chosen))
        refused += not read_or_refuse(file)
        file = tmp_path / "one/model.safetensors"
        file.write_bytes(damaged(safetensors, chosen))
        refused += not read_or_refuse(tmp_path / "one")
        name = JSON_FILES[seed % len(JSON_FILES)]
        kept = (folder / name).read_bytes()
        bad = json.dumps(wrong_values(json.loads(kept), chosen)).encode() if seed % 4 else damaged(kept, chosen)
        (folder / name).write_bytes(bad)
        refused += not read_or_refuse(folder)
        (folder / name).write_bytes(kept)
    assert refused > rounds  # of three files a round


def test_a_few_corruptions(tmp_path):
    corrupt(tmp_path, 24)


@pytest.mark.slow
def test_five_hundred_corruptions(tmp_path, capsys):
    corrupt(tmp_path, 500)
    for seed in range(20):  # by the command too
        file = tmp_path / "command.npz"
        file.write_bytes(damaged((GOLDEN / "big_vision_plain.npz").read_bytes(), random.Random(seed)))
        assert convert.main([str(file)]) in (0, 1)
        assert "Traceback" not in capsys.readouterr().err
