"""Checkpoints in and out: this project's folder, big_vision, Hugging Face, KerasHub and AugReg. Needs only numpy."""

from siglip_tf.checkpoints.checkpoint import Checkpoint, CheckpointError, KeyReport
from siglip_tf.checkpoints.registry import FORMATS, read, write

__all__ = ["FORMATS", "Checkpoint", "CheckpointError", "KeyReport", "read", "write"]
