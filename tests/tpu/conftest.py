"""What tests of the TPU compiler share."""

import importlib.util

import pytest

from siglip_tf.tpu.compiler import INSTALL


@pytest.fixture(scope="session")
def compiler_installed():
    missing = [name for name in ("jax", "libtpu") if not importlib.util.find_spec(name)]
    if missing:
        pytest.fail(f"{', '.join(missing)} not found. {INSTALL}")


@pytest.fixture(scope="session")
def compile_cache(tmp_path_factory):
    """A cache of compiled programs for this run of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("compile_cache")
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder
