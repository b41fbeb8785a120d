"""Training state, exact resume, and diagnostics."""

from siglip_tf.training.diagnostics import Diagnostics, read_metrics
from siglip_tf.training.loop import train
from siglip_tf.training.progress import Progress, Speed
from siglip_tf.training.resume import PositionedData, Resume, Stateful
from siglip_tf.training.store import CheckpointStore
from siglip_tf.training.watch import UnstableTrainingError, Watch

__all__ = [
    "CheckpointStore",
    "Diagnostics",
    "PositionedData",
    "Progress",
    "Resume",
    "Speed",
    "Stateful",
    "UnstableTrainingError",
    "Watch",
    "read_metrics",
    "train",
]
