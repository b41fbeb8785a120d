"""Checkpoints in and out: this project's folder, big_vision, Hugging Face, KerasHub and AugReg. Needs only numpy."""

from siglip_tf.checkpoints.checkpoint import Checkpoint, CheckpointError, KeyReport
from siglip_tf.checkpoints.registry import FORMATS, read, write
from siglip_tf.checkpoints.resample import resample_position_embedding, with_image_size

__all__ = [
    "FORMATS",
    "Checkpoint",
    "CheckpointError",
    "KeyReport",
    "read",
    "resample_position_embedding",
    "with_image_size",
    "write",
]
