"""First weights of both towers from the pairs that a model is about to be trained on."""

from __future__ import annotations

from typing import Any

import numpy as np
from ml_collections import ConfigDict

from siglip_tf.data import Preprocessing
from siglip_tf.data.sources.base import Source
from siglip_tf.experiments.first_words import first_words
from siglip_tf.experiments.principal_patches import principal_patches


def first_weights(c: ConfigDict, source: Source, preprocessing: Preprocessing, model: Any) -> dict[str, np.ndarray]:
    """Weights that a model begins with in place of its initial ones, by canonical name.

    Args:
        c: the settings.
        source: the training pairs.
        preprocessing: of the model.
        model: `SigLIP` with its initial weights. Where a patch is a whole picture, its image tower then has the
            weights that are returned, since the text tower's are fitted to it.
    """
    initial = {name: variable.numpy() for name, variable in model.named_weights().items()}
    image = principal_patches(c, source, preprocessing.image, initial)
    patches = initial["image/position_embedding"].shape[1]
    if not image or patches > 1:  # a grid of patches has to learn first what belongs together
        return image
    model.assign_weights({**initial, **image})
    return image | first_words(model, source, preprocessing, initial)
