"""The tiny model that the tools are run with, and its checkpoint."""

import pytest

from tests.example_model import example_model


@pytest.fixture(scope="session")
def model():
    return example_model()


@pytest.fixture(scope="session")
def checkpoint(model, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("checkpoint") / "tiny"
    model.save_checkpoint(path)
    return str(path)
