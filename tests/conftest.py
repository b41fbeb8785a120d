"""Eight logical CPU devices for the distribution tests, quiet logs, and seeds for every test."""

import gc
import os
import random
import subprocess
import warnings

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["KERAS_BACKEND"] = "tensorflow"


def pytest_configure(config):
    fast = "not slow" in config.option.markexpr
    if getattr(config.option, "numprocesses", None) and not hasattr(config, "workerinput"):
        return  # pytest-xdist's own process runs no test: its workers start sooner without TensorFlow.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the imports of Keras' own dependencies
        import keras  # noqa: F401
        import tensorflow as tf

    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 8
    )
    if fast:
        # TensorFlow's graph optimizer takes half of the time of a function that runs once or twice, as most do here.
        # The slow tests run with it.
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


def pytest_collection_finish():
    # The garbage collector took a tenth of the time: it walked over all objects of the imported modules.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 10, 10)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish():
    gc.unfreeze()  # plugins that begin work here look for what refers to an object


@pytest.fixture(autouse=True, scope="module")
def _seeded_tensorflow():
    import keras

    keras.utils.set_random_seed(0)


@pytest.fixture(autouse=True)
def _seeded():
    # Not TensorFlow's own seed: setting it drops every compiled function of the process, a second or two a test.
    import keras
    import numpy as np

    random.seed(0)
    np.random.seed(0)
    yield
    keras.config.set_dtype_policy("float32")


@pytest.fixture
def rng():
    import numpy as np

    return np.random.default_rng(0)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 256 KiB, where this user may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this user may not mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)
