"""Reads and writes checkpoints: native, big_vision, Hugging Face, KerasHub, and AugReg. It needs only numpy."""

from siglip_tf.checkpoints.checkpoint import Checkpoint, CheckpointError, KeyReport
from siglip_tf.checkpoints.registry import FORMATS, RESIZES, foreign_name, read, write
from siglip_tf.checkpoints.resample import resample_position_embedding, with_image_size
from siglip_tf.checkpoints.summary import describe

__all__ = [
    "FORMATS",
    "RESIZES",
    "Checkpoint",
    "CheckpointError",
    "KeyReport",
    "describe",
    "foreign_name",
    "read",
    "resample_position_embedding",
    "with_image_size",
    "write",
]
