"""What else than the model may have a state that goes with a checkpoint."""

from typing import Any, Protocol

import tensorflow as tf


class Stateful(Protocol):
    """An object whose state belongs in the checkpoint, such as a reader's count of bad records.

    An object with an attribute `optional_state = True` also resumes from a checkpoint that holds no state for it:
    `set_state(None)` then tells it so. Its state is the same on every worker.
    """

    def get_state(self) -> Any:
        """JSON values that stand for the state."""

    def set_state(self, state: Any) -> None:
        """Puts back what `get_state` gave."""


class PositionedData(Protocol):
    """Training data that knows its position, such as `siglip_tf.data.TrainingData`."""

    def dataset(self, context: tf.distribute.InputContext | None = None) -> tf.data.Dataset:
        """Endless batches from the restored position on; with a context, one worker's for each of its replicas."""

    def state(self, step: int) -> dict[str, Any]:
        """JSON values that stand for the position after `step` global batches of the run."""

    def restore(self, state: dict[str, Any]) -> None:
        """Continues at a position."""


def is_optional(item: Stateful) -> bool:
    """Whether an object resumes without a state of its own."""
    return getattr(item, "optional_state", False)
