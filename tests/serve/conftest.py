"""One server for the tests that only ask."""

import pytest

from tests.serve.tiny_model import running, write_version


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory):
    base = tmp_path_factory.mktemp("models") / "tiny"
    base.mkdir()
    write_version(base, 1, whole=True)
    return base


@pytest.fixture(scope="module")
def server(tiny_base):
    with running({"tiny": tiny_base}) as server:
        yield server
