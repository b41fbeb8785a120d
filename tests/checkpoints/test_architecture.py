import dataclasses
import math

import numpy as np
import pytest

from siglip_tf import checkpoints
from siglip_tf.checkpoints import Checkpoint, CheckpointError, architecture


@dataclasses.dataclass(frozen=True)
class Shaped:
    """Stands for an array where only the shape matters, so that large models cost nothing."""

    shape: tuple[int, ...]


def dimensions(image, patch, image_size, text, vocab_size, text_length=64, **more):
    sizes = {}
    for tower, name in (("image", image), ("text", text)):
        keys = ("width", "depth", "mlp_dim", "heads")
        sizes |= {f"{tower}_{k}": v for k, v in zip(keys, architecture.PUBLIC_TOWERS[name], strict=True)}
    image_part = {"image_size": image_size, "patch_size": patch, "image_pool": "map"}
    text_part = {"text_length": text_length, "vocab_size": vocab_size, "token_bottleneck": None, "text_head": True}
    return {**sizes, **image_part, **text_part, "embed_dim": sizes["image_width"], "has_bias": True, **more}


# The counts are those that KerasHub publishes of its presets, without the position ids that it counts.
PUBLIC = [
    (dimensions("B", 16, 224, "B", 32_000), 203_155_970, "B/16", "B"),
    (dimensions("B", 16, 256, "B", 32_000), 203_202_050, "B/16", "B"),
    (dimensions("B", 16, 384, "B", 32_000), 203_447_810, "B/16", "B"),
    (dimensions("B", 16, 512, "B", 32_000), 203_791_874, "B/16", "B"),
    (dimensions("L", 16, 256, "L", 32_000), 652_150_786, "L/16", "L"),
    (dimensions("L", 16, 384, "L", 32_000), 652_478_466, "L/16", "L"),
    (dimensions("So400m", 14, 224, "So400m", 32_000, 16), 877_360_306, "So400m/14", "So400m"),
    (dimensions("So400m", 14, 384, "So400m", 32_000), 877_960_498, "So400m/14", "So400m"),
    (dimensions("B", 16, 256, "B", 250_000), 370_626_050, "B/16", "B"),
    (dimensions("So400m", 16, 256, "So400m", 250_000), 1_128_758_962, "So400m/16", "So400m"),
    (dimensions("B", 32, 256, "B", 256_000), 376_856_066, "B/32", "B"),
    (dimensions("B", 16, 224, "B", 256_000), 375_187_970, "B/16", "B"),
    (dimensions("B", 16, 256, "B", 256_000), 375_234_050, "B/16", "B"),
    (dimensions("B", 16, 384, "B", 256_000), 375_479_810, "B/16", "B"),
    (dimensions("B", 16, 512, "B", 256_000), 375_823_874, "B/16", "B"),
    (dimensions("L", 16, 256, "L", 256_000), 881_526_786, "L/16", "L"),
    (dimensions("L", 16, 384, "L", 256_000), 881_854_466, "L/16", "L"),
    (dimensions("L", 16, 512, "L", 256_000), 882_313_218, "L/16", "L"),
    (dimensions("So400m", 14, 224, "So400m", 256_000), 1_135_463_602, "So400m/14", "So400m"),
    (dimensions("So400m", 14, 384, "So400m", 256_000), 1_136_008_498, "So400m/14", "So400m"),
    (dimensions("So400m", 16, 256, "So400m", 256_000), 1_135_670_962, "So400m/16", "So400m"),
    (dimensions("So400m", 16, 384, "So400m", 256_000), 1_136_039_602, "So400m/16", "So400m"),
    (dimensions("So400m", 16, 512, "So400m", 256_000), 1_136_555_698, "So400m/16", "So400m"),
    (dimensions("g-opt", 16, 256, "So400m", 256_000), 1_871_393_906, "g-opt/16", "So400m"),
    (dimensions("g-opt", 16, 384, "So400m", 256_000), 1_871_885_426, "g-opt/16", "So400m"),
    (dimensions("So400m", 14, 448, "So400m", 32_000), 878_300_338, "So400m/14", "So400m"),  # MedSigLIP
    (dimensions("B", 16, 256, "B", 256_000, max_patches=256), 375_234_050, "B/16", "B"),  # NaFlex
    (dimensions("So400m", 16, 256, "So400m", 256_000, max_patches=256), 1_135_670_962, "So400m/16", "So400m"),
]


@pytest.mark.parametrize(("wanted", "parameters", "image", "text"), PUBLIC)
def test_public_models_are_recognised_from_shapes(wanted, parameters, image, text):
    weights = {name: Shaped(shape) for name, shape in architecture.expected_shapes(wanted).items()}
    assert sum(math.prod(array.shape) for array in weights.values()) == parameters
    found = architecture.infer(weights)
    assert found == wanted
    arguments = architecture.arguments(found)
    assert (arguments["image"], arguments["text"]) == (image, text)
    assert not any(key.endswith(("width", "depth", "mlp_dim", "heads")) for key in arguments)


@pytest.mark.parametrize("format", [f for f in checkpoints.FORMATS if f != "native"])
def test_no_two_weights_share_a_place(tiny, format):
    """But for query, key and value of Hugging Face's MAP head, which are stacked."""
    names = list(tiny(image_pool="map").weights)
    foreign = [checkpoints.foreign_name(name, format) for name in names]
    shared = 4 if format == "hugging_face" else 0
    assert len(set(foreign)) == len(names) - shared


def test_descriptions(tiny):
    checkpoint = tiny(towers="text", has_bias=False, text_head=False)
    text = checkpoints.describe(checkpoint)
    assert "image tower" not in text
    assert "no bias" in text
    assert "no head" in text
    weights = {name: np.zeros(shape, np.float32) for name, shape in architecture.expected_shapes(MU).items()}
    text = checkpoints.describe(Checkpoint(architecture.arguments(MU), weights, notes=("as it is",)))
    assert "mu (width 32, depth 1, MLP 128, 2 heads)" in text
    assert text.splitlines()[-1].split() == ["note:", "as", "it", "is"]


MU = dimensions("mu", 4, 8, "mu", 5, 3)


def test_neither_tower():
    with pytest.raises(CheckpointError, match="neither an image nor a text tower"):
        architecture.infer({"bias": np.zeros(())})
