"""Runs an elementwise formula as one kernel on a CPU, where TensorFlow's executor would run op after op.

The gradient of GELU has a dozen ops, each of which reads and writes a tensor that is larger than the cache. They took a
tenth of a B/16 training step on two cores. XLA runs them in one pass. It is not needed elsewhere, because the steps of
TPUs and GPUs are compiled as a whole, and small tensors stay in the cache.
"""

import functools
from collections.abc import Callable

import tensorflow as tf

from siglip_tf.primitives.compilation import is_compiling_with_xla

# The smallest number of elements for which compiling a separate kernel is worthwhile.
_SMALLEST = 1 << 20


def one_kernel(formula: Callable[..., tf.Tensor], *tensors: tf.Tensor) -> tf.Tensor:
    """Computes `formula(*tensors)`, compiled by XLA if that is faster: for large static shapes in a graph on a CPU.

    Args:
        formula: a module-level function of elementwise ops. It is compiled once per shape and dtype.
        *tensors: tensors of the same shape.
    """
    if _pays(tensors[0]):
        return _compiled(formula)(*tensors)
    return formula(*tensors)


def _pays(x: tf.Tensor) -> bool:
    return (
        not tf.executing_eagerly()
        and (x.shape.num_elements() or 0) >= _SMALLEST
        # Under a strategy, a replica's device is unknown while tracing, and a TPU step cannot hold a compiled part.
        and not tf.distribute.has_strategy()
        and not is_compiling_with_xla()
        and not tf.config.list_logical_devices("GPU")
    )


@functools.cache
def _compiled(formula: Callable[..., tf.Tensor]) -> Callable[..., tf.Tensor]:
    return tf.function(formula, jit_compile=True, autograph=False)
