"""Counts the steps that a loss scaler skips. Such a step changes no weight and is not an error.

With `mixed_float16`, Keras scales the loss. If the scale is too large, gradients overflow; the optimizer then does not
update the weights and halves the scale.
"""

from collections.abc import Mapping

import keras

_MANY = 100


class PassedOverSteps:
    """Counts the steps at which a model's `LossScaleOptimizer` did not update the weights.

    Args:
        model: a compiled and restored model. Without a loss scaler, no step is skipped and nothing is read from the
            device.

    Attributes:
        last: whether any step of the last call of `count` was skipped.
        total: the number of skipped steps.
    """

    def __init__(self, model: keras.Model):
        optimizer = model.optimizer
        self._optimizer = optimizer if isinstance(optimizer, keras.optimizers.LossScaleOptimizer) else None
        self._updates = self._count_updates()
        self.last = False
        self.total = 0
        self._in_a_row = 0

    def count(self, steps: int) -> None:
        """Records that this many steps were done."""
        if self._optimizer is None:
            return
        updates, before = self._count_updates(), self._updates
        self._updates = updates
        passed = max(0, steps - (updates - before))
        self.last = passed > 0
        self.total += passed
        self._in_a_row = self._in_a_row + passed if passed == steps else 0

    def relevant(self, metrics: Mapping[str, float]) -> list[str]:
        """Returns the metrics that must be finite: all of them, or only the loss after a skipped step."""
        return [name for name in metrics if not self.last or name.endswith("loss")]

    def fault(self) -> str | None:
        """Returns an error message if many steps in a row were skipped, else None."""
        if self._in_a_row < _MANY:
            return None
        return f"the loss scaler has passed over {self._in_a_row} steps in a row, so nothing is trained"

    def _count_updates(self) -> int:
        return 0 if self._optimizer is None else int(keras.ops.convert_to_numpy(self._optimizer.iterations))
