"""Computing a block again in the backward pass instead of keeping its tensors, with a barrier that holds.

`tf.recompute_grad` puts no optimisation barrier into the graph, so XLA sees twice the same computation and merges it
away. Here the inputs of the second computation pass through one.
"""

import contextlib
import threading
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from tensorflow.compiler.tf2xla.ops import gen_xla_ops

from siglip_tf.primitives.dropout import current_random_state, random_state


class _Compiler(threading.local):
    xla = False


_compiler = _Compiler()


@contextlib.contextmanager
def compiling_with_xla(active: bool):
    """Says what will compile the graph traced inside: XLA, or TensorFlow's own executor."""
    before = _compiler.xla
    _compiler.xla = active
    try:
        yield
    finally:
        _compiler.xla = before


def is_compiling_with_xla() -> bool:
    """What `compiling_with_xla` says of the graph that is traced now."""
    return _compiler.xla


@tf.custom_gradient
def stored(x: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
    """The same tensor, which XLA then writes down once: what makes it and what reads it stay two kernels."""
    y = gen_xla_ops.xla_optimization_barrier([x])[0] if is_compiling_with_xla() else tf.identity(x)
    return y, lambda upstream: upstream


def rematerialize(call: Callable[..., Any], variables: list[keras.Variable], *inputs: tf.Tensor) -> Any:
    """`call(*inputs)`, of which only the inputs and the variables are kept for the backward pass.

    Args:
        call: pure but for its variables and the current random state; returns a tensor or a tuple of tensors.
        variables: the trainable variables that `call` reads; no others get a gradient.
        *inputs: tensors.

    Returns:
        call(*inputs), differentiable once in the inputs and in the variables.
    """
    state, xla, count = current_random_state(), _compiler.xla, len(inputs)

    def pure(*arguments):
        values = list(zip(variables, arguments[count:], strict=True))
        with keras.StatelessScope(state_mapping=values), random_state(state):
            return call(*arguments[:count])

    @tf.custom_gradient
    def forward(*arguments):
        def gradient(*upstream):
            again = _behind_barrier(arguments, upstream, xla)
            with tf.GradientTape() as tape:
                tape.watch(again)
                y = tf.nest.flatten(pure(*again))
            return tape.gradient(y, again, output_gradients=list(upstream))

        return pure(*arguments), gradient

    return forward(*inputs, *[tf.convert_to_tensor(variable.value) for variable in variables])


def _behind_barrier(tensors, upstream, xla):
    """The same tensors, such that what is computed from them cannot be merged with the same computation before."""
    if xla:
        return gen_xla_ops.xla_optimization_barrier([*tensors, *upstream])[: len(tensors)]
    with tf.control_dependencies(upstream):
        return [tf.identity(tensor) for tensor in tensors]
