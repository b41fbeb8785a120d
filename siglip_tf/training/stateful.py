"""Protocols of the objects whose state is stored in a checkpoint together with the model's."""

from typing import Any, Protocol

import tensorflow as tf


class Stateful(Protocol):
    """An object whose state belongs in the checkpoint, such as a reader's count of bad records.

    An object with the attribute `optional_state = True` can also resume from a checkpoint that holds no state for it;
    then `set_state(None)` is called. Its state must be the same on every worker.
    """

    def get_state(self) -> Any:
        """Returns the state as JSON values."""

    def set_state(self, state: Any) -> None:
        """Restores what `get_state` returned."""


class PositionedData(Protocol):
    """Training data that knows its position, such as `siglip_tf.data.TrainingData`."""

    def dataset(self, context: tf.distribute.InputContext | None = None) -> tf.data.Dataset:
        """Returns endless batches from the restored position on. With a context, they are one worker's batches."""

    def state(self, step: int) -> dict[str, Any]:
        """Returns the position after `step` global batches of the run, as JSON values."""

    def restore(self, state: dict[str, Any]) -> None:
        """Sets the position that `state` returned."""


def is_optional(item: Stateful) -> bool:
    """Whether an object can resume from a checkpoint that holds no state for it."""
    return getattr(item, "optional_state", False)
