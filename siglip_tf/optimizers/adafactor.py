"""ScalingViT-Adafactor: factored second moments over the two largest axes, bfloat16 momentum, no relative step.

Source: "Scaling Vision Transformers", arXiv 2106.04560, section 3.4, based on Adafactor, arXiv 1804.04235;
paper section 4.1 (beta2 capped at 0.95). `keras.optimizers.Adafactor` is a different algorithm.
"""

import contextlib
from collections.abc import Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf

from siglip_tf.optimizers.chain import ReferenceChain

_SMALLEST_FACTORED_AXIS = 32
_SQUARE_FLOOR = 1e-30


def factored_axes(shape: Sequence[int]) -> tuple[int, int] | None:
    """Returns the second largest and the largest axis if both have at least 32 entries, and None otherwise.

    (768, 12, 64) gives (2, 0), the axes of 64 and 768. Of equal axes, the later one counts as larger.
    """
    if len(shape) < 2:
        return None
    second, largest = (int(axis) for axis in np.argsort(shape, kind="stable")[-2:])
    return None if shape[second] < _SMALLEST_FACTORED_AXIS else (second, largest)


@keras.saving.register_keras_serializable("siglip_tf")
class ScalingViTAdafactor(ReferenceChain):
    """Divides the gradient by its factored RMS and applies momentum to the result, without bias correction.

    The decay of the second moment is `min(beta_2_cap, 1 - (step + 1) ** -0.8)`. There is no clipping of the update, no
    relative step size, and no scaling by the parameter. A kernel of n parameters needs 2 n bytes of state plus two
    float32 vectors; Adam needs 8 n bytes.

    Args:
        learning_rate, schedule, weight_decay, groups, decay_pattern, global_clipnorm, name: see `ReferenceChain`.
        beta_1: decay of the momentum of the normalized update.
        beta_2_cap: largest decay of the second moment.
        momentum_dtype: dtype in which the momentum is stored, "bfloat16" or "float32". The step is float32.

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
        beta_2_cap: float = 0.95,
        momentum_dtype: str = "bfloat16",
        **chain,
    ):
        super().__init__(learning_rate=learning_rate, schedule=schedule, weight_decay=weight_decay, **chain)
        for label, value in (("beta_1", beta_1), ("beta_2_cap", beta_2_cap)):
            if not 0 <= value < 1:
                raise ValueError(f"Expected {label} in [0, 1). Received: {label}={value}")
        if momentum_dtype not in ("bfloat16", "float32"):
            raise ValueError(f"Expected momentum_dtype 'bfloat16' or 'float32'. Received: {momentum_dtype!r}")
        self.beta_1 = beta_1
        self.beta_2_cap = beta_2_cap
        self.momentum_dtype = momentum_dtype

    def build_state(self, variables: Sequence[keras.Variable]) -> None:
        self._momentums = []
        self._moments = []  # A pair (rows, columns) if factored, or else one of the variable's shape.
        for variable in variables:
            shape = tuple(variable.shape)
            self._momentums.append(self._state(variable, shape, "momentum", self.momentum_dtype))
            axes = factored_axes(shape)
            if axes is None:
                self._moments.append([self._state(variable, shape, "second_moment", variable.dtype)])
            else:
                second, largest = axes
                rows, columns = (tuple(n for i, n in enumerate(shape) if i != axis) for axis in (largest, second))
                self._moments.append(
                    [
                        self._state(variable, rows, "second_moment_rows", variable.dtype),
                        self._state(variable, columns, "second_moment_columns", variable.dtype),
                    ]
                )

    def _state(self, variable: keras.Variable, shape: tuple[int, ...], name: str, dtype: str) -> keras.Variable:
        strategy = self._distribution_strategy
        with strategy.extended.colocate_vars_with(variable.value), _initialised_on_each_worker(strategy):
            return self.add_variable(shape=shape, dtype=dtype, name=f"{variable.path.replace('/', '_')}_{name}")

    def step_scalars(self, learning_rate: tf.Tensor) -> dict[str, tf.Tensor]:
        scalars = super().step_scalars(learning_rate)
        return {**scalars, "beta_2": tf.minimum(self.beta_2_cap, 1.0 - (scalars["step"] + 1.0) ** -0.8)}

    def state_of(self, index: int) -> list[keras.Variable]:
        return [self._momentums[index], *self._moments[index]]

    def direction(self, gradient, state, shape, scalars):
        momentum, *moments = state
        beta_2 = tf.cast(scalars["beta_2"], gradient.dtype)
        squares = tf.square(gradient) + _SQUARE_FLOOR

        def decayed(moment, value):
            return beta_2 * moment + (1.0 - beta_2) * value

        axes = factored_axes(shape)
        if axes is None:
            after = [decayed(moments[0], squares)]
            normalised = gradient * tf.math.rsqrt(after[0])
        else:
            # Count axes from the end, because stacked variables have a leading axis.
            second, largest = (axis - len(shape) for axis in axes)
            by_row = decayed(moments[0], tf.reduce_mean(squares, axis=largest))
            by_column = decayed(moments[1], tf.reduce_mean(squares, axis=second))
            after = [by_row, by_column]
            # `by_row` lacks the largest axis, so the index of the second largest may have changed.
            of_rows = second if second > largest else second + 1
            mean = tf.reduce_mean(by_row, axis=of_rows, keepdims=True)
            normalised = gradient * tf.expand_dims(tf.math.rsqrt(by_row / mean), largest)
            normalised *= tf.expand_dims(tf.math.rsqrt(by_column), second)
        # The product is computed in the momentum's dtype, as in the reference, where a bfloat16 momentum decays by
        # bfloat16(0.9) = 0.8984 and is rounded before the float32 sum. A float32 product is 5e-3 off after 50 steps.
        kept = tf.cast(self.beta_1, self.momentum_dtype) * momentum
        step = (1.0 - self.beta_1) * normalised + tf.cast(kept, gradient.dtype)
        return step, [tf.cast(step, self.momentum_dtype), *after]

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "beta_1": self.beta_1,
            "beta_2_cap": self.beta_2_cap,
            "momentum_dtype": self.momentum_dtype,
        }


@contextlib.contextmanager
def _initialised_on_each_worker(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """Creates variables of zeros on each worker. TensorFlow would broadcast them, but it cannot broadcast bfloat16."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        yield
        return
    extended = strategy.extended
    broadcast = extended._get_variable_creator_initial_value

    def local(replica_id, device, primary_var, **kwargs):
        if replica_id:
            return broadcast(replica_id, device, primary_var, **kwargs)
        value = kwargs["initial_value"]
        return lambda: tf.convert_to_tensor(value() if callable(value) else value, kwargs.get("dtype"))

    extended._get_variable_creator_initial_value = local
    try:
        yield
    finally:
        del extended._get_variable_creator_initial_value
