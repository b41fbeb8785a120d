"""The sigmoid loss (section 3.2) and its softmax baseline (section 3.1), tiled and round the ring (section 3.3).

The way through the files: `sigmoid` holds the loss and its gradients; `all_pairs` takes images and texts round the ring
and through tiles; `numerics` the products and sums of a tile. `pair_labels` (pairs that are no negatives) and
`negatives` (section 4.8) change the weight of a pair. `interface` checks what comes in and makes the result
differentiable.
"""

from siglip_tf.losses.interface import LossResult, check_precision, check_tile_size
from siglip_tf.losses.negatives import Negatives
from siglip_tf.losses.numerics import PRECISIONS
from siglip_tf.losses.pair_labels import PairLabels, as_group, check_choices, pair_labels
from siglip_tf.losses.sigmoid import sigmoid_loss, sigmoid_loss_and_gradients
from siglip_tf.losses.softmax import softmax_loss, softmax_loss_and_gradients

__all__ = [
    "PRECISIONS",
    "LossResult",
    "Negatives",
    "PairLabels",
    "as_group",
    "check_choices",
    "check_precision",
    "check_tile_size",
    "pair_labels",
    "sigmoid_loss",
    "sigmoid_loss_and_gradients",
    "softmax_loss",
    "softmax_loss_and_gradients",
]
