"""One export with a label bank, made and loaded once a session."""

import pytest
import tensorflow as tf

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


@pytest.fixture(scope="session")
def signatures(exported):
    loaded = tf.saved_model.load(exported.path)
    yield loaded.signatures  # they live as long as what was loaded
