"""Computes a block again in the backward pass instead of keeping its tensors.

`tf.recompute_grad` adds no optimization barrier to the graph, so XLA sees the same computation twice and merges the
two. In this file, the inputs of the second computation pass through a barrier.
"""

import keras
import tensorflow as tf

from siglip_tf.primitives.compilation import is_compiling_with_xla
from siglip_tf.primitives.dropout import current_random_state, random_state
from siglip_tf.primitives.tensorflow_internals import optimization_barrier


def rematerialize(layer: keras.layers.Layer, x: tf.Tensor, **arguments) -> tf.Tensor:
    """Computes `layer(x, **arguments)`, and keeps only x and the weights for the backward pass.

    Args:
        layer: a layer that returns one tensor and is pure except for its weights and the current random state. Any of
            its weights may be frozen. No gradient is computed for frozen weights.
        x: a tensor.
        **arguments: further arguments of the layer, which are not tensors.

    Returns:
        The layer's result, differentiable once in x and in the layer's trainable variables.
    """
    state, xla = current_random_state(), is_compiling_with_xla()
    weights = floating_weights(layer)
    trains = [weight.trainable for weight in weights]

    def pure(x, *values):
        with keras.StatelessScope(state_mapping=list(zip(weights, values, strict=True))), random_state(state):
            return layer(x, **arguments)

    @tf.custom_gradient
    def forward(x, *values):
        def gradient(upstream):
            x_again, *again = _behind_barrier([x, *values], upstream, xla)
            # Do not watch all of `again`: a frozen kernel that is not watched needs no matmul in the backward pass.
            wanted = [x_again, *(value for value, trained in zip(again, trains, strict=True) if trained)]
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(wanted)
                y = pure(x_again, *again)
            dx, *found = tape.gradient(y, wanted, output_gradients=upstream)
            found = iter(found)
            return dx, *[next(found) if trained else None for trained in trains]

        return pure(x, *values), gradient

    return forward(x, *[tf.convert_to_tensor(weight.value) for weight in weights])


def floating_weights(layer: keras.layers.Layer) -> list[keras.Variable]:
    """Returns all floating-point weights of a layer, frozen ones included."""
    return [weight for weight in layer.weights if tf.as_dtype(weight.dtype).is_floating]


def _behind_barrier(tensors, upstream, xla):
    """Returns the same tensors, but computations on them cannot be merged with earlier identical computations."""
    if xla:
        return optimization_barrier([*tensors, upstream])[: len(tensors)]
    with tf.control_dependencies([upstream]):
        return [tf.identity(tensor) for tensor in tensors]
