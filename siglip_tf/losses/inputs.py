"""The former place of `check_tile_size`."""

from siglip_tf.losses.interface import check_tile_size

__all__ = ["check_tile_size"]
