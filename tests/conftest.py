"""Eight logical CPU devices for the distribution tests, quiet logs, and seeds for every test."""

import os
import random
import subprocess

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import numpy as np
import pytest
import tensorflow as tf

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 8
)


def pytest_configure(config):
    # TensorFlow's graph optimizer takes half of the time of a function that runs once or twice, as most do here. The
    # slow tests run with it.
    if "not slow" in config.option.markexpr:
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


@pytest.fixture(autouse=True, scope="module")
def _seeded_tensorflow():
    keras.utils.set_random_seed(0)


@pytest.fixture(autouse=True)
def _seeded():
    # Not TensorFlow's own seed: setting it drops every compiled function of the process, a second or two a test.
    random.seed(0)
    np.random.seed(0)
    yield
    keras.config.set_dtype_policy("float32")


@pytest.fixture
def rng() -> np.random.Generator:
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
