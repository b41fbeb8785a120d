"""siglip_tf: image-text pre-training with the sigmoid loss, in TensorFlow and Keras.

Source: "Sigmoid Loss for Language Image Pre-Training", https://arxiv.org/abs/2303.15343
"""

from siglip_tf import backend as _backend  # isort: skip  (refuses a wrong Keras backend before anything is built)

from siglip_tf.version import __version__

__all__ = ["__version__"]

_backend.require_tensorflow()
