"""Lion in the reference chain: the sign of an interpolated momentum.

Source: arXiv 2302.06675, algorithm 2; paper section 4.4 (SigLiT: learning rate 1e-4, weight decay 1e-7).
"""

from collections.abc import Sequence

import keras
import tensorflow as tf

from siglip_tf.optimizers.chain import ReferenceChain


@keras.saving.register_keras_serializable("siglip_tf")
class Lion(ReferenceChain):
    """Steps by sign(beta_1 m + (1 - beta_1) g), and then updates m to beta_2 m + (1 - beta_2) g.

    Args:
        learning_rate, schedule, weight_decay, groups, decay_pattern, global_clipnorm, name: see `ReferenceChain`.
        beta_1: weight of the momentum m in the direction of the step.
        beta_2: decay of the momentum.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        learning_rate: float = 1e-4,
        schedule=None,
        *,
        weight_decay: float = 1e-7,
        beta_1: float = 0.9,
        beta_2: float = 0.95,
        **chain,
    ):
        super().__init__(learning_rate=learning_rate, schedule=schedule, weight_decay=weight_decay, **chain)
        for label, value in (("beta_1", beta_1), ("beta_2", beta_2)):
            if not 0 <= value < 1:
                raise ValueError(f"Expected {label} in [0, 1). Received: {label}={value}")
        self.beta_1 = beta_1
        self.beta_2 = beta_2

    def build_state(self, variables: Sequence[keras.Variable]) -> None:
        self._momentums = self.add_optimizer_variables(variables, "momentum")

    def state_of(self, index: int) -> list[keras.Variable]:
        return [self._momentums[index]]

    def direction(self, gradient, state, shape, scalars):
        (momentum,) = state
        after = self.beta_2 * momentum + (1.0 - self.beta_2) * gradient
        return tf.sign(self.beta_1 * momentum + (1.0 - self.beta_1) * gradient), [after]

    def get_config(self) -> dict:
        return {**super().get_config(), "beta_1": self.beta_1, "beta_2": self.beta_2}
