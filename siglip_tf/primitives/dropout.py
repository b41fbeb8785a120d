"""Dropout and stochastic depth with masks that belong to examples, so that microbatches draw the same masks.

The bits of a mask hash (step seed, layer, example, unit). So a mask can be drawn again in the backward pass of a
microbatch or of a rematerialized block, and it does not depend on the other examples of the batch.
"""

import contextlib
import dataclasses
import threading
import zlib
from collections.abc import Iterable

import keras
import tensorflow as tf

from siglip_tf.primitives.hashing import hash_bits


@dataclasses.dataclass(frozen=True)
class RandomState:
    """The random state that all random layers of a step share.

    Attributes:
        seed: int32 scalar, a new one for every step.
        first_example: int32 scalar, the number of the current batch's first example in the global batch.
    """

    seed: tf.Tensor
    first_example: tf.Tensor


class _Current(threading.local):
    state: RandomState | None = None


_current = _Current()


def current_random_state() -> RandomState | None:
    """Returns the state that `random_state` has set in this thread, or None."""
    return _current.state


@contextlib.contextmanager
def random_state(state: RandomState | None):
    """Makes random layers inside the context draw from `state`. Outside, they draw from their own seeds."""
    before = _current.state
    _current.state = state
    try:
        yield
    finally:
        _current.state = before


def own_random_state(layers: Iterable[keras.layers.Layer]) -> RandomState | None:
    """Returns the current state or, if there is none, a state from the seed of the first layer with a nonzero rate.

    A computation that is repeated in the backward pass must not draw a new seed. A user's own training loop may set no
    state, so the state is drawn here, before the first computation.
    """
    seeded = [layer for layer in layers if layer.rate]
    return _current.state or (seeded[0].draw_state() if seeded else None)


class _MaskedLayer(keras.layers.Layer):
    """A layer that drops parts of each example with probability `rate` while training."""

    def __init__(self, rate: float, seed: int | None = None, **kwargs):
        super().__init__(**kwargs)
        if not 0 <= rate < 1:
            raise ValueError(f"Expected a rate in [0, 1). Received: rate={rate!r}.")
        self.rate = rate
        self.seed = seed
        if rate:
            self.seed_generator = keras.random.SeedGenerator(seed)

    def build(self, _):
        # The salt makes this layer's masks differ from those of other layers, and is the same in every process.
        self._salt = zlib.crc32(self.path.encode()) >> 1

    def call(self, inputs, training=False):
        if not training or not self.rate:
            return inputs
        state = current_random_state() or self.draw_state()
        examples = state.first_example + tf.range(tf.shape(inputs)[0])
        units = inputs.shape[1:].num_elements() if self._each_unit else 1
        bits = hash_bits(state.seed, self._salt, examples[:, None], tf.range(units)[None, :])
        kept = tf.cast(bits >= tf.constant(round(self.rate * 2**32), tf.uint32), inputs.dtype)
        shape = inputs.shape[1:] if self._each_unit else [1] * (inputs.shape.rank - 1)
        return inputs * tf.reshape(kept, (-1, *shape)) / (1 - self.rate)

    def draw_state(self) -> RandomState:
        """Draws a state from this layer's own seed generator."""
        own_seed = tf.bitcast(tf.cast(self.seed_generator.next()[1], tf.uint32), tf.int32)
        return RandomState(own_seed, tf.zeros((), tf.int32))

    def get_config(self):
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}


@keras.saving.register_keras_serializable(package="siglip_tf")
class Dropout(_MaskedLayer):
    """Drops each unit of each example with probability `rate` while training, and scales the rest by 1 / (1 - rate)."""

    _each_unit = True


@keras.saving.register_keras_serializable(package="siglip_tf")
class StochasticDepth(_MaskedLayer):
    """Drops a whole residual branch for an example with probability `rate` while training."""

    _each_unit = False
