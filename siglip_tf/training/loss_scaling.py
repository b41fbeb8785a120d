"""Steps that a loss scaler passes over, as it is made to: they change no weight and are no fault.

With `mixed_float16` Keras scales the loss. A scale that is too large makes gradients overflow; the optimizer then
leaves the weights alone and halves the scale.
"""

from collections.abc import Mapping

import keras

_MANY = 100


class PassedOverSteps:
    """Notices the steps at which a model's `LossScaleOptimizer` left the weights alone.

    Args:
        model: compiled and restored. Without a loss scaler nothing is passed over or read from the device.

    Attributes:
        last: whether one of the steps counted last was passed over.
        total: how many were passed over.
    """

    def __init__(self, model: keras.Model):
        optimizer = model.optimizer
        self._optimizer = optimizer if isinstance(optimizer, keras.optimizers.LossScaleOptimizer) else None
        self._updates = self._count_updates()
        self.last = False
        self.total = 0
        self._in_a_row = 0

    def count(self, steps: int) -> None:
        """Notes that this many steps were made."""
        if self._optimizer is None:
            return
        updates, before = self._count_updates(), self._updates
        self._updates = updates
        passed = max(0, steps - (updates - before))
        self.last = passed > 0
        self.total += passed
        self._in_a_row = self._in_a_row + passed if passed == steps else 0

    def relevant(self, metrics: Mapping[str, float]) -> list[str]:
        """The metrics that must be finite: all of them, or the loss alone after a step that was passed over."""
        return [name for name in metrics if not self.last or name.endswith("loss")]

    def fault(self) -> str | None:
        """What is wrong when no step is made at all, or None."""
        if self._in_a_row < _MANY:
            return None
        return f"the loss scaler has passed over {self._in_a_row} steps in a row, so nothing is trained"

    def _count_updates(self) -> int:
        return 0 if self._optimizer is None else int(keras.ops.convert_to_numpy(self._optimizer.iterations))
