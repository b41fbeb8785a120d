"""Tiny random checkpoints: every dimension differs from every other, so that no swapped axis goes unseen."""

from collections.abc import Callable

import numpy as np
import pytest

from siglip_tf.checkpoints import Checkpoint, architecture

DIMENSIONS = {
    "image_size": 50,  # 3 x 3 patches and a rest of 8 pixels
    "patch_size": 14,
    "image_width": 20,
    "image_depth": 3,
    "image_mlp_dim": 36,
    "image_heads": 5,
    "image_pool": "map",
    "text_length": 7,
    "vocab_size": 61,
    "text_width": 18,
    "text_depth": 2,
    "text_mlp_dim": 28,
    "text_heads": 3,
    "token_bottleneck": None,
    "text_head": True,
    "embed_dim": 20,
    "has_bias": True,
}
IMAGE_TOWER = ("image_size", "patch_size", "image_width", "image_depth", "image_mlp_dim", "image_heads", "image_pool")


@pytest.fixture
def tiny() -> Callable[..., Checkpoint]:
    """Makes a random checkpoint: `tiny(seed, towers="both" | "image" | "text", **changes of the dimensions)`."""

    def make(seed: int = 0, towers: str = "both", **changes) -> Checkpoint:
        keys = [key for key in DIMENSIONS if towers in ("both", "image" if key in IMAGE_TOWER else "text")]
        dimensions = {key: (DIMENSIONS | changes)[key] for key in keys}
        rng = np.random.default_rng(seed)
        weights = {
            # Norm scales lie round 1, as in a trained model; the rest is large enough for every bias to matter.
            name: (rng.normal(0, 0.3, shape) + name.endswith("scale")).astype(np.float32)
            for name, shape in architecture.expected_shapes(dimensions).items()
        }
        return Checkpoint(architecture.arguments(dimensions), weights)

    return make
