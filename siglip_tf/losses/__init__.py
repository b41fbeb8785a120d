"""The sigmoid loss (section 3.2) and its softmax baseline (section 3.1), tiled and around the ring (section 3.3).

Start with `sigmoid`, which holds the loss and its gradients. `all_pairs` takes images and texts around the ring and
through tiles, and `numerics` has the products and sums of a tile. `pair_labels` (pairs that are not negatives) and
`negatives` (section 4.8) change the weight of a pair. `interface` checks the inputs and makes the loss differentiable.
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
