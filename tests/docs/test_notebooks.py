"""The notebooks run from top to bottom with a small checkpoint, and the fine-tuned model is better than the start."""

import os
import pathlib

import pytest

from tests.example_model import example_model

NOTEBOOKS = pathlib.Path(__file__).parents[2] / "docs" / "notebooks"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("notebooks") / "checkpoint"
    example_model().save_checkpoint(str(path))
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
    assert printed[2].count("picture ") == 5
    assert "image/png" in cells[-1].outputs[0].data


@pytest.mark.slow
def test_fine_tune(checkpoint, tmp_path):
    folder = tmp_path / "digits"
    printed, _ = executed(
        "fine_tune.ipynb",
        tmp_path,
        SIGLIP_CHECKPOINT=str(checkpoint),
        SIGLIP_FOLDER=str(folder),
        SIGLIP_STEPS="60",
    )
    before, after = (float(text.split("%")[0].split()[-1]) for text in (printed[2], printed[3]))
    assert after > before
    assert (folder / "adapters.safetensors").stat().st_size < 500_000
    assert (folder / "tuned").is_dir()
