"""The process's random states as plain JSON values: Python's and NumPy's.

Layers draw from `keras.random.SeedGenerator`, whose state is a variable of the model and is saved with it. TensorFlow's
stateful ops (`tf.random.uniform` with an op seed) count inside their kernels and cannot be saved; a
`tf.random.Generator` can be, as one of `Resume`'s `trackables`.
"""

import hashlib
import json
import random
from typing import Any

import numpy as np


def process_random_state() -> dict[str, Any]:
    """The states of `random` and of NumPy's global functions."""
    version, words, gauss = random.getstate()
    state: Any = np.random.get_state()
    name, keys, position, has_gauss, cached = state
    return {
        "python": [version, list(words), gauss],
        "numpy": [name, keys.tolist(), int(position), int(has_gauss), float(cached)],
    }


def set_process_random_state(state: dict[str, Any]) -> None:
    """Puts back what `process_random_state` returned."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))


def random_state_of_new_worker(state: dict[str, Any], worker: int) -> dict[str, Any]:
    """A state for a worker that joins a run: other numbers than any saved worker's, and the same in every resume.

    Args:
        state: the first worker's saved state.
        worker: the new worker's index.
    """
    digest = hashlib.sha256(json.dumps([state, worker]).encode()).digest()
    python = random.Random(digest)
    version, words, gauss = python.getstate()
    drawn: Any = np.random.RandomState(np.frombuffer(digest, np.uint32)).get_state()
    name, keys, position, *_ = drawn
    return {
        "python": [version, list(words), gauss],
        "numpy": [name, keys.tolist(), int(position), 0, 0.0],
    }
