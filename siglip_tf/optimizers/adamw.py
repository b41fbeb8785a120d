"""AdamW in the reference chain.

Source: arXiv 1711.05101; paper section 4.1 (beta2 = 0.95).
"""

from collections.abc import Sequence

import keras
import tensorflow as tf

from siglip_tf.optimizers.chain import ReferenceChain


@keras.saving.register_keras_serializable("siglip_tf")
class AdamW(ReferenceChain):
    """Adam with bias correction, and decoupled weight decay that is scaled by the schedule.

    Args:
        learning_rate, schedule, weight_decay, groups, decay_pattern, global_clipnorm, name: see `ReferenceChain`.
        beta_1: decay of the first moment.
        beta_2: decay of the second moment. 0.95 keeps training stable with large batches (section 4.7).
        epsilon: added to the square root of the bias-corrected second moment (Keras adds it to the uncorrected one).

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        learning_rate: float = 1e-3,
        schedule=None,
        *,
        weight_decay: float = 1e-4,
        beta_1: float = 0.9,
        beta_2: float = 0.95,
        epsilon: float = 1e-8,
        **chain,
    ):
        super().__init__(learning_rate=learning_rate, schedule=schedule, weight_decay=weight_decay, **chain)
        for label, value in (("beta_1", beta_1), ("beta_2", beta_2)):
            if not 0 <= value < 1:
                raise ValueError(f"Expected {label} in [0, 1). Received: {label}={value}")
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon

    def build_state(self, variables: Sequence[keras.Variable]) -> None:
        self._momentums, self._velocities = self.add_optimizer_variables(variables, ["momentum", "velocity"])

    def step_scalars(self, learning_rate: tf.Tensor) -> dict[str, tf.Tensor]:
        scalars = super().step_scalars(learning_rate)
        count = scalars["step"] + 1.0
        return {**scalars, "beta_1_power": self.beta_1**count, "beta_2_power": self.beta_2**count}

    def state_of(self, index: int) -> list[keras.Variable]:
        return [self._momentums[index], self._velocities[index]]

    def direction(self, gradient, state, shape, scalars):
        momentum, velocity = state
        first = self.beta_1 * momentum + (1.0 - self.beta_1) * gradient
        second = self.beta_2 * velocity + (1.0 - self.beta_2) * tf.square(gradient)
        corrected = first / tf.cast(1.0 - scalars["beta_1_power"], first.dtype)
        root = tf.sqrt(second / tf.cast(1.0 - scalars["beta_2_power"], second.dtype))
        return corrected / (root + self.epsilon), [first, second]

    def update_step(self, gradient, variable, learning_rate) -> None:
        """Updates one variable by TensorFlow's one-pass kernel or, on a TPU, where XLA fuses ops, by the formula.

        On a CPU, the kernel takes a third of the time of the formula's ops (0.5 s against 1.4 s for B/16 on 2 cores).
        """
        if isinstance(self._distribution_strategy, tf.distribute.TPUStrategy):
            super().update_step(gradient, variable, learning_rate)
            return
        scalars = learning_rate if isinstance(learning_rate, dict) else self.step_scalars(learning_rate)
        index = self._get_variable_index(variable)
        dtype = variable.dtype
        before = variable.read_value()
        if self._decays[index]:
            variable.assign_sub(before * tf.cast(scalars["schedule"] * self._decays[index], dtype))
        rate = scalars["learning_rate"] * scalars["schedule"] * self._learning_rate_multipliers[index]
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            beta1_power=tf.cast(scalars["beta_1_power"], dtype),
            beta2_power=tf.cast(scalars["beta_2_power"], dtype),
            lr=tf.cast(rate, dtype),
            beta1=tf.cast(self.beta_1, dtype),
            beta2=tf.cast(self.beta_2, dtype),
            # The kernel divides by sqrt(v) + epsilon and applies the correction sqrt(1 - beta2^t) as a factor.
            epsilon=tf.cast(self.epsilon * tf.sqrt(1.0 - scalars["beta_2_power"]), dtype),
            grad=tf.cast(gradient, dtype),
        )
        change = tf.math.squared_difference(variable.read_value(), before)
        self.note_updates([index], [tf.reduce_sum(change)])

    def get_config(self) -> dict:
        return {**super().get_config(), "beta_1": self.beta_1, "beta_2": self.beta_2, "epsilon": self.epsilon}
