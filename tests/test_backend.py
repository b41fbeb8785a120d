"""The package refuses a wrong Keras backend in one clear sentence."""

import subprocess
import sys

import keras
import pytest

from siglip_tf import backend


def test_tensorflow_is_accepted():
    backend.require_tensorflow()


def test_another_backend_is_named_and_refused(monkeypatch):
    monkeypatch.setattr(keras.config, "backend", lambda: "jax")
    with pytest.raises(ImportError, match="'tensorflow'. Received: 'jax'"):
        backend.require_tensorflow()


def test_the_version_is_readable_without_tensorflow():
    code = (
        "import runpy, sys; print(runpy.run_path('siglip_tf/version.py')['__version__']); "
        "assert 'tensorflow' not in sys.modules"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip().count(".") == 2
