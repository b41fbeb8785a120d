"""One export with a label bank, made once a session."""

import pytest

from siglip_tf.export import export_saved_model
from tests.example_model import example_model

BANK = ("red circle", "blue square", "green triangle", "großes Quadrat")
TEMPLATES = ("a photo of a {}.", "{}")


@pytest.fixture(scope="session")
def model():
    return example_model()


@pytest.fixture(scope="session")
def exported(model, tmp_path_factory):
    directory = tmp_path_factory.mktemp("served") / "tiny"
    return export_saved_model(model, directory, labels=BANK, templates=TEMPLATES)
