"""Single image towers: AugReg and original ViT npz files, and the towers that big_vision's image trainers save.

Source: "How to train your ViT?", https://arxiv.org/abs/2106.10270; big_vision `models/vit.py`, `fix_old_checkpoints`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from pathlib import Path

from siglip_tf.checkpoints import big_vision
from siglip_tf.checkpoints.checkpoint import Checkpoint
from siglip_tf.checkpoints.files import ArrayDict, read_npz
from siglip_tf.checkpoints.translation import rename_by

FORMAT = "augreg"

# Old versions of Flax numbered a block's four modules consecutively. Current ones number each kind separately.
_TO_CURRENT = rename_by(
    (
        (r"^Transformer/posembed_input/pos_embedding$", "pos_embedding"),
        (r"^Transformer/pos_embedding$", "pos_embedding"),
        (r"(encoderblock_\d+|encoderblock)/LayerNorm_2/", r"\1/LayerNorm_1/"),
        (r"/MultiHeadDotProductAttention_1/", "/MultiHeadDotProductAttention_0/"),
        (r"/MlpBlock_3/", "/MlpBlock_0/"),
        (r"^(probe|MlpBlock_0|MultiHeadDotProductAttention_0|LayerNorm_0)(?=/|$)", r"MAPHead_0/\1"),
        (r"^", "img/"),
    )
)
_CLASSIFIER = re.compile(r"img/(head|pre_logits)/")


def recognizes(names: Iterable[str]) -> bool:
    """Whether the arrays of an npz file are those of a single ViT."""
    return any(re.fullmatch(r"(params/|opt/target/)?embedding/kernel", name) for name in names)


def read(path: Path) -> Checkpoint:
    """Reads the image tower. The classifier is left out, with a note.

    If there is a class token, its position embedding is added to the token, and the pooling is "tok". Without a class
    token, it is "gap", or "map" if there is a MAP head.

    Raises:
        CheckpointError: if the file is damaged, or does not hold the weights of one whole tower. An example is a hybrid
            with convolutions.
    """
    found, notes = big_vision.parameters(read_npz(path))
    arrays, more = big_vision.normalize({_TO_CURRENT(name): array for name, array in found.items()})
    notes += more
    if classifier := [name for name in arrays if _CLASSIFIER.match(name)]:
        notes += (f"Left out the classifier: {', '.join(n.removeprefix('img/') for n in classifier)}.",)
    arrays = {name: array for name, array in arrays.items() if name not in classifier}
    return big_vision.assemble(_split_class_position(arrays), str(path), FORMAT, notes)


def _split_class_position(arrays: ArrayDict) -> ArrayDict:
    positions = arrays.get("img/pos_embedding")
    if positions is None or math.isqrt(positions.shape[1] - 1) ** 2 + 1 != positions.shape[1]:
        return arrays
    arrays = {**arrays, "img/pos_embedding": positions[:, 1:]}
    if "img/cls" in arrays:
        arrays["img/cls"] = arrays["img/cls"] + positions[:, :1]
    return arrays
