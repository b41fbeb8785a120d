"""The sigmoid loss (section 3.2) and its softmax baseline (section 3.1), tiled and round the ring (section 3.3)."""

from siglip_tf.losses.negatives import Negatives
from siglip_tf.losses.result import LossResult
from siglip_tf.losses.sigmoid import sigmoid_loss, sigmoid_loss_and_gradients
from siglip_tf.losses.softmax import softmax_loss, softmax_loss_and_gradients

__all__ = [
    "LossResult",
    "Negatives",
    "sigmoid_loss",
    "sigmoid_loss_and_gradients",
    "softmax_loss",
    "softmax_loss_and_gradients",
]
