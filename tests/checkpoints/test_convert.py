import dataclasses
import re
from pathlib import Path

import pytest
import tensorflow as tf

from siglip_tf import checkpoints
from tests.vocabulary import trained
from tools import convert

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("format", checkpoints.FORMATS)
def test_converts_and_says_so(tmp_path, capsys, format):
    assert convert.main([str(GOLDEN / "big_vision_plain.npz"), str(tmp_path / "model"), "--to", format]) == 0
    printed = capsys.readouterr().out
    for part in (
        "format:      big_vision",
        "width 12, depth 3, MLP 20, 3 heads, patch 5, 15 x 15 pixels, pool map; 5,768 parameters",
        "7 tokens, vocabulary 37, head to 12",
        "bias -9.965",
        "big_vision, 15 pixels",
        "name its SentencePiece model",
        " bytes  ",
        "108 of 108 arrays are equal to the last bit",
    ):
        assert part in printed
    query = {
        "big_vision": "encoderblock_0/Multi",
        "hugging_face": "layers.0.self_attn.q_proj",
        "keras_hub": "query_dense",
    }
    assert query.get(format, "") in printed
    assert checkpoints.read(tmp_path / "model").format == format


def test_other_resolution_and_tokenizer(tmp_path, capsys):
    (tmp_path / "spiece.model").write_bytes(b"model")
    arguments = [str(GOLDEN / "big_vision_plain.npz"), str(tmp_path / "model"), "--to", "native"]
    assert convert.main([*arguments, "--image-size", "30", "--tokenizer", str(tmp_path / "spiece.model")]) == 0
    assert "from 3 x 3 to 6 x 6 patches" in capsys.readouterr().out
    found = checkpoints.read(tmp_path / "model")
    assert found.architecture["image_size"] == 30
    assert found.preprocessing["image"]["size"] == 30
    assert found.tokenizer == b"model"


def test_describes_without_writing(capsys, tiny, tmp_path):
    checkpoints.write(tmp_path / "model", tiny(token_bottleneck=9), format="native")
    assert convert.main([str(tmp_path / "model")]) == 0
    assert "bottleneck 9" in capsys.readouterr().out
    assert convert.main([str(tmp_path / "model"), str(tmp_path / "npz"), "--to", "big_vision"]) == 0
    printed = capsys.readouterr().out
    assert "multiplied out or changed: text/token_embedding/embedding" in printed
    assert "not in this format: text/token_embedding/projection" in printed


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # KerasHub leaves a file open
def test_answers_of_the_other_library_are_compared(tmp_path, capsys, tiny):
    vocabulary = trained(["a photo of a cat", "two dogs one ball"], 60)
    text = {"length": 7, "lower_case": "ascii", "eos_id": 1, "pad_id": 1, "punctuation": "strip"}
    for method in ("bicubic_antialias", "bilinear_antialias", "big_vision"):
        preprocessing = {"image": {"size": 50, "method": method}, "text": text}
        checkpoint = dataclasses.replace(tiny(), preprocessing=preprocessing, tokenizer=vocabulary)
        checkpoints.write(tmp_path / "source", checkpoint)
        for format in ("hugging_face", "keras_hub"):
            target = tmp_path / f"{format} {method}"
            assert convert.main([str(tmp_path / "source"), str(target), "--to", format]) == 0
            printed = capsys.readouterr().out
            pixels = float(re.search(r"pixels: ([\d.]+) of 255", printed)[1])
            exact = (method == "big_vision") == (format == "keras_hub")
            assert (pixels < 2.5) == (exact or format == "keras_hub"), (format, method, pixels)
            cosine = float(re.search(r"text embeddings: cosine ([\d.]+)", printed)[1])
            assert re.search(r"token ids: equal for \d of 6 texts", printed)
            assert cosine > 0.999 or "the first that differ" in printed
            assert "logits: " in printed


def test_says_what_is_wrong(tmp_path, capsys):
    (tmp_path / "model.npz").write_bytes(b"\x80\x04")
    assert convert.main([str(tmp_path / "model.npz")]) == 1
    assert "a pickle" in capsys.readouterr().err
    assert convert.main([str(tmp_path / "absent")]) == 1
    assert "No checkpoint at" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        convert.main([str(tmp_path / "model.npz"), str(tmp_path / "out")])
    assert "go together" in capsys.readouterr().err


def test_other_file_systems(tiny, tmp_path):
    checkpoint = dataclasses.replace(tiny(), tokenizer=b"model")
    checkpoints.write(tmp_path / "model", checkpoint, format="keras_hub")  # a folder with folders in it
    for file in (tmp_path / "model").rglob("*"):
        if file.is_file():
            tf.io.gfile.makedirs(f"ram://models/{file.relative_to(tmp_path).parent}")
            tf.io.gfile.copy(str(file), f"ram://models/{file.relative_to(tmp_path)}", overwrite=True)
    found = checkpoints.read("ram://models/model")
    assert found.source == "ram://models/model"
    assert found.architecture == checkpoint.architecture
    assert found.tokenizer == b"model"
    with pytest.raises(FileNotFoundError, match="ram://models/absent"):
        checkpoints.read("ram://models/absent")
