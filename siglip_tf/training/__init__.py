"""A whole run of training: exact resume, evaluation, diagnostics, and loggers.

Words used here:
    run: one training from its first step to its last. It has one folder. Several processes may work on it, one after
        another.
    checkpoint: the whole state of training at a step. A run that continues from it computes the same bits.
    best checkpoint: the model's weights at the step with the best evaluation. A run cannot continue from it.
    worker: one of several processes that train together. The chief is worker 0; it writes what the workers share.
    owner: the process that may write to the folder now.
    post-mortem: a checkpoint of a step at which a metric was not finite or had a spike.
"""

from siglip_tf.training.diagnostics import Diagnostics
from siglip_tf.training.evaluation import PeriodicEvaluation
from siglip_tf.training.loop import train
from siglip_tf.training.metrics_file import read_metrics
from siglip_tf.training.owner import RunFolderInUseError
from siglip_tf.training.progress import ProgressLine, Speed
from siglip_tf.training.resume import Resume
from siglip_tf.training.stateful import PositionedData, Stateful
from siglip_tf.training.store import CheckpointStore
from siglip_tf.training.watch import UnstableTrainingError, Watch

__all__ = [
    "CheckpointStore",
    "Diagnostics",
    "PeriodicEvaluation",
    "PositionedData",
    "ProgressLine",
    "Resume",
    "RunFolderInUseError",
    "Speed",
    "Stateful",
    "UnstableTrainingError",
    "Watch",
    "read_metrics",
    "train",
]
