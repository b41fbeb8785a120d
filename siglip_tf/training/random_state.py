"""Python's and NumPy's random states as JSON values.

Layers draw from `keras.random.SeedGenerator`, whose state is a variable of the model and is saved with it. TensorFlow's
stateful ops (`tf.random.uniform` with an op seed) keep their counters inside their kernels, which cannot be saved. A
`tf.random.Generator` can be saved as one of `Resume`'s `trackables`.
"""

import hashlib
import json
import random
from typing import Any

import numpy as np


def process_random_state() -> dict[str, Any]:
    """Returns the states of `random` and of NumPy's global functions."""
    version, words, gauss = random.getstate()
    state: Any = np.random.get_state()
    name, keys, position, has_gauss, cached = state
    return {
        "python": [version, list(words), gauss],
        "numpy": [name, keys.tolist(), int(position), int(has_gauss), float(cached)],
    }


def set_process_random_state(state: dict[str, Any]) -> None:
    """Restores what `process_random_state` returned."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))


def random_state_of_new_worker(state: dict[str, Any], worker: int) -> dict[str, Any]:
    """Returns a random state for a worker that joins a run.

    The state differs from that of every saved worker, and it is the same each time the run resumes.

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
