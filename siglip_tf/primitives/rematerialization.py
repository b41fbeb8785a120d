"""Computing a block again in the backward pass instead of keeping its tensors, with a barrier that holds.

`tf.recompute_grad` puts no optimisation barrier into the graph, so XLA sees twice the same computation and merges it
away. Here the inputs of the second computation pass through one.
"""

import contextlib
import threading
from collections.abc import Callable

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


def rematerialize(call: Callable[[tf.Tensor], tf.Tensor], variables: list[keras.Variable], x: tf.Tensor) -> tf.Tensor:
    """`call(x)`, of which only x and the variables are kept for the backward pass.

    Args:
        call: pure but for its variables and the current random state.
        variables: the trainable variables that `call` reads; no others get a gradient.
        x: any tensor.

    Returns:
        call(x), differentiable once in x and in the variables.
    """
    state, xla = current_random_state(), _compiler.xla

    def pure(x, *values):
        with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))), random_state(state):
            return call(x)

    @tf.custom_gradient
    def forward(x, *values):
        def gradient(upstream):
            inputs = _behind_barrier([x, *values], upstream, xla)
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                y = pure(*inputs)
            return tape.gradient(y, inputs, output_gradients=upstream)

        return pure(x, *values), gradient

    return forward(x, *[tf.convert_to_tensor(variable.value) for variable in variables])


def _behind_barrier(tensors, upstream, xla):
    """The same tensors, such that what is computed from them cannot be merged with the same computation before."""
    if xla:
        *tensors, _ = gen_xla_ops.xla_optimization_barrier([*tensors, upstream])
        return tensors
    with tf.control_dependencies([upstream]):
        return [tf.identity(tensor) for tensor in tensors]
