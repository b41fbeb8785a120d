"""Files and commands from before the packages were rearranged still work: a checkpoint, stored embeddings, a run.

`files` was written by the code of commit 2544da9: a tiny model's checkpoint and its answers, embeddings of 47 records,
a run of `tests.training.small_run` that a signal ended at step 13, and the weights of the same run without a stop.
"""

import argparse
import pathlib
import runpy
import shutil
import sys

import numpy as np
import pytest
import tensorflow as tf

import siglip_tf
from siglip_tf.data import StoredEmbeddings
from siglip_tf.training import Resume, train
from tests.training.small_run import BATCH, STEPS, batches, make_model, weights

FILES = pathlib.Path(__file__).parent / "files"


def test_a_former_checkpoint_gives_the_same_answers():
    model = siglip_tf.SigLIP.from_checkpoint(FILES / "checkpoint", verbose=False)
    answers = np.load(FILES / "answers.npz")
    pixels = tf.stack([model.preprocessing.image((FILES / name).read_bytes()) for name in ("0.jpg", "1.png")])
    ids = model.preprocessing.text(["a red circle", "großes rotes quadrat"])
    np.testing.assert_array_equal(ids, answers["ids"])
    np.testing.assert_allclose(model.encode_image(pixels), answers["images"], atol=1e-6)
    np.testing.assert_allclose(model.encode_text(ids), answers["texts"], atol=1e-6)


def test_former_embeddings_are_read():
    stored = StoredEmbeddings(FILES / "embeddings")
    assert (stored.size, stored.embed_dim, stored.text_length) == (47, 3, 6)
    embeddings, _ = stored.gather(np.arange(47), np.zeros(47, np.int64))
    expected = np.array([[i & 255, i >> 8 & 255, 0] for i in range(47)]) / 255
    np.testing.assert_allclose(embeddings.astype(np.float64), expected, atol=1e-3)


def test_a_former_run_goes_on_to_the_same_weights(tmp_path):
    shutil.copytree(FILES / "run", tmp_path / "run")
    model, said = make_model(), []
    resume = Resume(str(tmp_path / "run"), every=5, say=said.append)
    options = {"log_every": 1, "tensorboard": False, "progress": False}
    train(model, batches, steps=STEPS, global_batch_size=BATCH, resume=resume, **options)
    assert "Resumed at step 13" in said[0]
    final = np.load(FILES / "run_final.npz")
    for value, name in zip(weights(model), final.files, strict=True):
        # Another processor may round differently; a state that is lost or mixed up is far from this.
        np.testing.assert_allclose(value, final[name], rtol=1e-5, atol=1e-6)


COMMANDS = (
    "tools.digits runs/digits",
    "recipes.siglip --embedded",
    "recipes.siglip 32k --dry-run",
    "tools.convert SRC DST --to hugging_face",
    "tools.inspect_data runs/digits --checkpoint runs/q/checkpoint --out runs/digits.html",
    "tools.precompute_embeddings runs/q/checkpoint runs/digits runs/embeddings",
    "tools.evaluate runs/q/checkpoint --output runs/evaluated --tasks zero_shot:folder=x",
    "tools.search index runs/digits/images/test --model runs/q/checkpoint",
    "tools.search serve runs/digits/images/test",
    "tools.export runs/q/checkpoint runs/served",
    "tools.tpu_report siglip --topology v4:2x2x1 --global-batch 4096",
    "tools.tpu_report siglip --search-batch --compare softmax --html report.html",
    "tools.tpu_host siglip --estimate FILE",
    "recipes.studies.all --scale small --seeds 3",
    "recipes.studies.bias_init --scale small",
)


class ParsedError(Exception):
    """Stands for all that a command does once its arguments are understood."""


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("line", COMMANDS)
def test_former_commands_are_understood(line, monkeypatch):
    parse = argparse.ArgumentParser.parse_args

    def parse_only(self, *arguments, **options):
        parse(self, *arguments, **options)
        raise ParsedError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
    name, *words = line.split()
    monkeypatch.setattr(sys, "argv", [name, *words])
    with pytest.raises(ParsedError):
        runpy.run_module(name, run_name="__main__")
