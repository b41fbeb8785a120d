"""The notebooks run from top to bottom with a small checkpoint, and the fine-tuned model is better than the start."""

import os
import pathlib
import re

import pytest

import siglip_tf
from siglip_tf.data import ImagePreprocessing, Preprocessing, Tokenizer
from siglip_tf.data.text.training import train_tokenizer
from tests.example_model import example_model

NOTEBOOKS = pathlib.Path(__file__).parents[2] / "docs" / "notebooks"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("notebooks") / "checkpoint"
    example_model().save_checkpoint(str(path))
    return path


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    """A checkpoint of fresh weights whose vocabulary tells the captions of the digits apart."""
    names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    tokenizer = Tokenizer(train_tokenizer([f"the digit {name}" for name in names] * 5, 60, model_type="bpe"), 8)
    model = siglip_tf.SigLIP("mu/16", "mu", 32, 8, tokenizer.vocab_size, init_bias=-3.0)
    model.preprocessing = Preprocessing(ImagePreprocessing(32), tokenizer)
    path = tmp_path_factory.mktemp("notebooks") / "untrained"
    model.save_checkpoint(str(path))
    return path


def executed(name, folder, **environment):
    """The text that each code cell prints."""
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    notebook = nbformat.read(NOTEBOOKS / name, as_version=4)
    nbformat.validate(notebook)
    path = os.pathsep.join([str(NOTEBOOKS.parents[1]), os.environ.get("PYTHONPATH", "")])
    variables = {**os.environ, **environment, "PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "3"}
    client = nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}})
    client.execute(env=variables)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return ["".join(output.get("text", "") for output in cell.outputs) for cell in cells], cells


@pytest.mark.slow
def test_zero_shot_and_search(checkpoint, tmp_path):
    printed, cells = executed("zero_shot_and_search.ipynb", tmp_path, SIGLIP_CHECKPOINT=str(checkpoint))
    assert printed[1].count("%") == 3 and "a blue star" in printed[1]
    assert len(re.findall(r"picture \d+:", printed[2])) == 5
    assert "image/png" in cells[-1].outputs[0].data


@pytest.mark.slow
def test_fine_tune(untrained, tmp_path):
    folder = tmp_path / "digits"
    printed, _ = executed(
        "fine_tune.ipynb",
        tmp_path,
        SIGLIP_CHECKPOINT=str(untrained),
        SIGLIP_FOLDER=str(folder),
        SIGLIP_STEPS="150",
    )
    before, after = (float(text.split("%")[0].split()[-1]) for text in (printed[2], printed[3]))
    assert after > before + 10
    assert (folder / "adapters.safetensors").stat().st_size < 500_000
    assert (folder / "tuned").is_dir()
