"""Learning rate schedules as factors in 0..1 of the peak: constant, cosine, linear, reciprocal square root.

The factor also scales weight decay, so it is separate from the learning rate (see `chain.py`).

Source: section 4.1 (warm-up, then cosine); reciprocal square root with cooldown from "Scaling Vision Transformers",
arXiv 2106.04560, section 3.5.
"""

import abc
import math

import keras
import tensorflow as tf


class _Schedule(keras.optimizers.schedules.LearningRateSchedule, abc.ABC):
    """A linear warm-up from 0 and a linear cooldown to 0, multiplied by the decay of a subclass."""

    def __init__(self, total_steps: int | None, warmup_steps: int = 0, cooldown_steps: int = 0):
        for name, value in (("warmup_steps", warmup_steps), ("cooldown_steps", cooldown_steps)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise ValueError(
                    f"Expected {name} to be an int >= 0 (use Duration.of(...).to_steps(...) for other units). "
                    f"Received: {name}={value!r}"
                )
        if total_steps is not None and (not isinstance(total_steps, int) or total_steps < 1):
            raise ValueError(f"Expected total_steps to be an int >= 1. Received: total_steps={total_steps!r}")
        if total_steps is not None and total_steps > 1 and warmup_steps + cooldown_steps > total_steps:
            raise ValueError(
                f"Warm-up ({warmup_steps} steps) and cooldown ({cooldown_steps} steps) do not fit into "
                f"total_steps={total_steps}. Shorten them or train longer."
            )
        if cooldown_steps and total_steps is None:
            raise ValueError(f"A cooldown of {cooldown_steps} steps needs total_steps to know when to start.")
        self.total_steps = total_steps
        self.warmup_steps = warmup_steps
        self.cooldown_steps = cooldown_steps

    @abc.abstractmethod
    def decay(self, step: tf.Tensor) -> tf.Tensor:
        """Returns the factor at a step, a float32 scalar, before warm-up and cooldown are applied."""

    def progress(self, step: tf.Tensor) -> tf.Tensor:
        """Returns the fraction of the run after warm-up that has passed, in 0..1."""
        length = max(1, (self.total_steps or 0) - self.warmup_steps)
        return tf.clip_by_value((step - self.warmup_steps) / length, 0.0, 1.0)

    def __call__(self, step) -> tf.Tensor:
        """Returns the factor for the update number `step` (from 0): a float32 scalar in 0..1."""
        step = tf.cast(step, tf.float32)
        factor = self.decay(step)
        if self.warmup_steps:
            factor *= tf.minimum(1.0, step / self.warmup_steps)
        if self.cooldown_steps:
            factor *= tf.clip_by_value((self.total_steps - step) / self.cooldown_steps, 0.0, 1.0)
        return factor

    def get_config(self) -> dict:
        return {
            "total_steps": self.total_steps,
            "warmup_steps": self.warmup_steps,
            "cooldown_steps": self.cooldown_steps,
        }


@keras.saving.register_keras_serializable("siglip_tf")
class Constant(_Schedule):
    """A factor of 1 after warm-up.

    Args:
        total_steps: number of steps of the run; only required with a cooldown.
        warmup_steps: number of steps of linear warm-up from 0.
        cooldown_steps: number of steps of linear cooldown to 0 at the end.
    """

    def __init__(self, total_steps: int | None = None, warmup_steps: int = 0, cooldown_steps: int = 0):
        super().__init__(total_steps, warmup_steps, cooldown_steps)

    def decay(self, step: tf.Tensor) -> tf.Tensor:
        return tf.ones_like(step)


@keras.saving.register_keras_serializable("siglip_tf")
class Cosine(_Schedule):
    """Half a cosine, from 1 after warm-up to 0 at `total_steps` (the paper's schedule, section 4.1).

    Args:
        total_steps: number of steps of the run.
        warmup_steps: number of steps of linear warm-up from 0.
        cooldown_steps: number of steps of an additional linear cooldown at the end; 0 in the paper.
    """

    def __init__(self, total_steps: int, warmup_steps: int = 0, cooldown_steps: int = 0):
        super().__init__(total_steps, warmup_steps, cooldown_steps)

    def decay(self, step: tf.Tensor) -> tf.Tensor:
        return 0.5 * (1.0 + tf.cos(math.pi * self.progress(step)))


@keras.saving.register_keras_serializable("siglip_tf")
class Linear(_Schedule):
    """A straight line from 1 after warm-up to 0 at `total_steps`. The arguments are those of `Cosine`."""

    def __init__(self, total_steps: int, warmup_steps: int = 0, cooldown_steps: int = 0):
        super().__init__(total_steps, warmup_steps, cooldown_steps)

    def decay(self, step: tf.Tensor) -> tf.Tensor:
        return 1.0 - self.progress(step)


@keras.saving.register_keras_serializable("siglip_tf")
class ReciprocalSqrt(_Schedule):
    """The factor 1 / sqrt(1 + (step - warmup) / timescale), for training without a fixed end.

    Use a cooldown to finish the training at any time.

    Args:
        total_steps: number of steps of the run; only required with a cooldown.
        warmup_steps: number of steps of linear warm-up from 0.
        cooldown_steps: number of steps of linear cooldown to 0 at the end.
        timescale: number of steps after which the factor is 1 / sqrt(2).
        shift: number of steps that the decay is ahead, to continue another run.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        total_steps: int | None = None,
        warmup_steps: int = 0,
        cooldown_steps: int = 0,
        timescale: int = 10_000,
        shift: int = 0,
    ):
        super().__init__(total_steps, warmup_steps, cooldown_steps)
        if timescale <= 0:
            raise ValueError(f"Expected timescale > 0. Received: timescale={timescale}")
        if shift < 0:
            raise ValueError(f"Expected shift >= 0. Received: shift={shift}")
        self.timescale = timescale
        self.shift = shift

    def decay(self, step: tf.Tensor) -> tf.Tensor:
        since = tf.maximum(step - self.warmup_steps, 0.0) + self.shift
        return tf.math.rsqrt(1.0 + since / self.timescale)

    def get_config(self) -> dict:
        return {**super().get_config(), "timescale": self.timescale, "shift": self.shift}
