"""siglip_tf: image-text pre-training with the sigmoid loss, in TensorFlow and Keras.

Source: "Sigmoid Loss for Language Image Pre-Training", https://arxiv.org/abs/2303.15343
"""

# `backend` comes first: it refuses a wrong Keras backend before anything is built on it.
from siglip_tf import backend, losses, models
from siglip_tf.models import SigLIP
from siglip_tf.version import __version__

__all__ = ["SigLIP", "__version__", "backend", "losses", "models"]
