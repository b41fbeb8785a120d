"""siglip_tf: image-text pre-training with the sigmoid loss, in TensorFlow and Keras.

Source: "Sigmoid Loss for Language Image Pre-Training", https://arxiv.org/abs/2303.15343
"""

from siglip_tf import processor

processor.use_onednn()  # TensorFlow reads the switch when it is imported, which the next line does.

# `backend` comes first: it refuses a wrong Keras backend before anything is built on it.
from siglip_tf import backend, losses, models  # noqa: E402
from siglip_tf.data.sources import registry  # noqa: E402
from siglip_tf.models import SigLIP  # noqa: E402
from siglip_tf.version import __version__  # noqa: E402

__all__ = ["SigLIP", "__version__", "backend", "losses", "models", "processor"]


def _synthetic(split=None, **options):
    from siglip_tf.synthetic import SceneSource

    return SceneSource(split or "train", **options)


# The data package cannot import the synthetic data, which are built on it. "scenes" is their former name.
registry.register(_synthetic, "synthetic", "scenes")
