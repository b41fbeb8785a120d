"""What `import siglip_tf` offers; importing it imports TensorFlow."""

# `backend` comes first: it refuses a wrong Keras backend before anything is built on it.
from siglip_tf import backend, losses, models
from siglip_tf.data.sources import registry
from siglip_tf.models import SigLIP

__all__ = ["SigLIP", "backend", "losses", "models"]


def _synthetic(split=None, **options):
    from siglip_tf.synthetic import SceneSource

    return SceneSource(split or "train", **options)


# The data package cannot import the synthetic data, which are built on it. "scenes" is their former name.
registry.register(_synthetic, "synthetic", "scenes")
