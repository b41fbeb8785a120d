"""The former place of `LossResult`."""

from siglip_tf.losses.interface import LossResult

__all__ = ["LossResult"]
