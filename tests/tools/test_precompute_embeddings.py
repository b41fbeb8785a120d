"""`python -m tools.precompute_embeddings`: the tower's own embeddings, on all devices, whatever kills it."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from siglip_tf.data import EmbeddingData, StoredEmbeddings, tower_fingerprint
from siglip_tf.data.embeddings.stored import read_shard
from tests.data.sources.test_tar import write_shard
from tests.example_model import example_model, pictures, vocabulary
from tools import precompute_embeddings

ROOT = Path(__file__).parents[2]
AUGREG = str(ROOT / "tests/checkpoints/golden/augreg_tok.npz")
COUNT = 23
# Kills the process by SIGKILL while it writes its third shard.
KILLED = """
import os, signal, sys
from siglip_tf.data.embeddings import writer as embedding_writer
from tools import precompute_embeddings
whole = embedding_writer.write_shard
def write_shard(path, arrays, skipped):
    if "shard-00002" in path:
        with open(path + ".partial", "wb") as file:
            file.write(arrays["text"].tobytes()[:100])
        os.kill(os.getpid(), signal.SIGKILL)
    whole(path, arrays, skipped)
embedding_writer.write_shard = write_shard
precompute_embeddings.main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("precompute")
    model.save_checkpoint(folder / "tiny")
    images = pictures(COUNT)
    samples = [{"__key__": f"{i}", "jpg": image, "txt": f"picture {i}"} for i, image in enumerate(images)]
    samples[10]["jpg"] = b"broken"
    write_shard(folder / "0.tar", samples)
    (folder / "tok.model").write_bytes(vocabulary())
    return folder


def _command(folder, out, *more) -> list[str]:
    options = ["--shard-records", "6", "--batch-size", "1", "--bad-record-limit", "0.2", *more]
    return [str(folder / "tiny"), str(folder / "0.tar"), str(out), *options]


@pytest.fixture(scope="module")
def stored(folder):
    """Made in one go, on the eight devices that the tests have."""
    assert precompute_embeddings.local_strategy(cpus=True).num_replicas_in_sync == 8
    assert precompute_embeddings.main(_command(folder, folder / "whole", "--report", str(folder / "bad.jsonl"))) == 0
    return StoredEmbeddings(folder / "whole")


def _expected(model) -> np.ndarray:
    sound = [image for i, image in enumerate(pictures(COUNT)) if i != 10]
    return np.asarray(model.encode_image(tf.stack([model.preprocessing.image(image) for image in sound])))


def test_embeddings_are_the_models(model, stored, folder):
    embeddings, texts = stored.gather(np.arange(COUNT - 1), np.zeros(COUNT - 1, np.int64))
    np.testing.assert_allclose(embeddings.astype(np.float32), _expected(model), atol=1e-3)
    np.testing.assert_array_equal(texts, model.preprocessing.text([f"picture {i}" for i in range(COUNT) if i != 10]))
    assert stored.manifest["counts"] == {
        "read": COUNT, "images": COUNT - 1, "texts": COUNT - 1, "skipped": {"undecodable_image": 1}
    }  # fmt: skip
    assert json.loads((folder / "bad.jsonl").read_text())["offset"] == 10
    tower = {name: weight for name, weight in model.named_weights().items() if name.startswith("image/")}
    stored.check(tower_fingerprint(tower), model.preprocessing)


def test_they_feed_the_model(model, stored):
    batch = next(iter(EmbeddingData(stored, 4).dataset()))
    assert batch.keys() == {"image_embedding", "text"}
    model.compile(optimizer="adam")
    assert np.isfinite(model.evaluate(EmbeddingData(stored, 4).dataset(), steps=1, verbose=0, return_dict=True)["loss"])


def test_another_tower_preprocessing_or_dtype_is_refused(model, stored, folder, tmp_path, capsys):
    changed = example_model()
    kernel = changed.named_weights()["image/patch_embedding/kernel"]
    kernel.assign(kernel + 1e-3)
    changed.save_checkpoint(tmp_path / "changed")
    command = _command(folder, folder / "whole")
    for arguments, message in (
        ([str(tmp_path / "changed"), *command[1:]], "tower: stored"),
        ([*command, "--text-length", "7"], "preprocessing.text.length: stored 8, wanted 7"),
        ([*command, "--dtype", "bfloat16"], "dtype: stored 'float16', wanted 'bfloat16'"),
    ):
        assert precompute_embeddings.main(arguments) == 2
        error = capsys.readouterr().err
        assert "holds embeddings of another run" in error and message in error


def test_an_image_tower_alone(folder, tmp_path, capsys, monkeypatch):
    """AugReg's npz names no tokenizer; its texts are for the text tower that will be trained."""
    monkeypatch.setattr(precompute_embeddings, "local_strategy", lambda **unused: tf.distribute.get_strategy())
    arguments = [AUGREG, str(folder / "0.tar"), str(tmp_path / "e"), "--bad-record-limit", "0.2"]
    assert precompute_embeddings.main(arguments) == 2
    assert "name a --tokenizer and its --text-length" in capsys.readouterr().err
    more = ["--tokenizer", str(folder / "tok.model"), "--text-length", "5", "--dtype", "bfloat16", "--batch-size", "3"]
    assert precompute_embeddings.main([*arguments, *more]) == 0
    stored = StoredEmbeddings(tmp_path / "e")
    assert (stored.size, stored.embed_dim, stored.text_length, stored.dtype) == (COUNT - 1, 12, 5, tf.bfloat16)
    embeddings, _ = stored.gather(np.arange(3), np.zeros(3, np.int64))
    np.testing.assert_allclose(np.linalg.norm(embeddings.astype(np.float32), axis=1), 1, atol=1e-2)


@pytest.mark.slow
def test_a_killed_run_goes_on_at_its_first_missing_shard(stored, folder):
    command = _command(folder, folder / "killed")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    child = subprocess.run(
        [sys.executable, "-c", KILLED, *command], cwd=folder, env=environment, capture_output=True, check=False
    )
    assert child.returncode == -signal.SIGKILL, child.stderr.decode()
    written = {path: path.stat().st_mtime_ns for path in (folder / "killed").glob("*.safetensors")}
    assert sorted(path.name[:11] for path in written) == ["shard-00000", "shard-00001"]
    with pytest.raises(ValueError, match="unfinished: run the same precompute_embeddings command again"):
        StoredEmbeddings(folder / "killed")
    assert precompute_embeddings.main(command) == 0
    assert {path: path.stat().st_mtime_ns for path in written} == written
    resumed = StoredEmbeddings(folder / "killed")
    assert resumed.manifest == stored.manifest
    for path in sorted((folder / "whole").glob("*.safetensors")):
        whole, _ = read_shard(str(path))
        other, _ = read_shard(str(folder / "killed" / path.name))
        np.testing.assert_array_equal(whole["record"], other["record"])
        np.testing.assert_array_equal(whole["text"], other["text"])
        # The child had one device, and other batches.
        difference = whole["image_embedding"].astype(np.float32) - other["image_embedding"].astype(np.float32)
        assert np.abs(difference).max() < 1e-3
