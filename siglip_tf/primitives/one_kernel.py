"""Elementwise formulas as one kernel on CPU, where TensorFlow's executor runs each of their operations over memory.

A GELU's gradient is a dozen operations, each of which reads and writes a tensor that no cache holds: of a B/16 training
step on two cores it was a tenth. XLA makes one pass of them. Elsewhere there is nothing to do: a TPU's step and a
GPU's are compiled as a whole, and small tensors stay in the cache.
"""

import functools
from collections.abc import Callable

import tensorflow as tf

from siglip_tf.primitives.compilation import is_compiling_with_xla

# Elements of a tensor that no cache holds; below, a kernel of its own is not worth compiling.
_SMALLEST = 1 << 20


def one_kernel(formula: Callable[..., tf.Tensor], *tensors: tf.Tensor) -> tf.Tensor:
    """`formula(*tensors)`, compiled by XLA where that pays: large tensors of a static shape in a graph on CPU.

    Args:
        formula: a module's function of elementwise operations; it is compiled once per shape and dtype.
        *tensors: of one shape.
    """
    if _pays(tensors[0]):
        return _compiled(formula)(*tensors)
    return formula(*tensors)


def _pays(x: tf.Tensor) -> bool:
    return (
        not tf.executing_eagerly()
        and (x.shape.num_elements() or 0) >= _SMALLEST
        # Under a strategy a replica's device is not known while tracing, and a TPU refuses a compiled part in a step.
        and not tf.distribute.has_strategy()
        and not is_compiling_with_xla()
        and not tf.config.list_logical_devices("GPU")
    )


@functools.cache
def _compiled(formula: Callable[..., tf.Tensor]) -> Callable[..., tf.Tensor]:
    return tf.function(formula, jit_compile=True, autograph=False)
