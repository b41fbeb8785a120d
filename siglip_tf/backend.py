"""Raises an error if the Keras backend is not TensorFlow, before anything uses it."""

import keras


def require_tensorflow() -> None:
    """Raises an ImportError if Keras does not use TensorFlow (KERAS_BACKEND, or `backend` in the user's keras.json)."""
    if keras.config.backend() != "tensorflow":
        raise ImportError(
            f"siglip_tf needs the Keras backend 'tensorflow'. Received: {keras.config.backend()!r} (from KERAS_BACKEND "
            "or keras.json). Set KERAS_BACKEND=tensorflow before Python starts."
        )


require_tensorflow()
