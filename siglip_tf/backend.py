"""Refuses any Keras backend but TensorFlow, before anything uses it."""

import keras


def require_tensorflow() -> None:
    """Raises ImportError unless Keras runs on TensorFlow (KERAS_BACKEND, or `backend` in the user's keras.json)."""
    if keras.config.backend() != "tensorflow":
        raise ImportError(
            f"siglip_tf needs the Keras backend 'tensorflow'. Received: {keras.config.backend()!r} (from KERAS_BACKEND "
            "or keras.json). Set KERAS_BACKEND=tensorflow before Python starts."
        )


require_tensorflow()
