"""The public names of `siglip_tf`. This module imports TensorFlow."""

# `backend` comes first, because it refuses a wrong Keras backend before anything uses it.
from siglip_tf import backend, losses, models
from siglip_tf.data.sources import registry
from siglip_tf.models import SigLIP

__all__ = ["SigLIP", "backend", "losses", "models"]


def _synthetic(split=None, **options):
    from siglip_tf.synthetic import SceneSource

    return SceneSource(split or "train", **options)


# The synthetic data are registered here, because the data package must not import them. "scenes" is their former name.
registry.register(_synthetic, "synthetic", "scenes")
