"""Runs the towers forward and backward, for the whole batch at once or for one microbatch at a time.

The loss needs the embeddings of the whole batch, and returns its gradients with respect to them. With microbatches, the
towers first compute only the embeddings, a few examples at a time. They then run a second time for the gradients of
their weights. The memory depends on the microbatch, but the gradient is that of the whole batch.
"""

from collections.abc import Callable

import keras
import tensorflow as tf

from siglip_tf.optimizers import gradient_tape
from siglip_tf.primitives.dropout import RandomState, random_state

# The embeddings (b, embed_dim) by side, and a function that converts their gradients to gradients of the variables.
Embeddings = dict[str, tf.Tensor]
Backward = Callable[[Embeddings], list[tf.Tensor]]
Encode = Callable[[str, tf.Tensor], tf.Tensor]


def whole_batch(
    encode: Encode, inputs: dict[str, tf.Tensor], variables: list[keras.Variable], state: RandomState
) -> tuple[Embeddings, Backward]:
    """Encodes all examples at once.

    Args:
        encode: a function of a side and its inputs that returns embeddings (b, embed_dim) in training mode.
        inputs: the inputs (b, ...) by side.
        variables: the trainable variables that `encode` uses.
        state: the state of the random layers.

    Returns:
        The embeddings by side, and a function that converts their gradients to gradients of the variables.
    """
    with gradient_tape(variables) as tape, random_state(state):
        embeddings = {side: encode(side, value) for side, value in inputs.items()}
    sides = list(embeddings)

    def backward(upstream):
        gradients = tape.gradient(
            [embeddings[side] for side in sides],
            [variable.value for variable in variables],
            output_gradients=[upstream[side] for side in sides],
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        return [tf.convert_to_tensor(gradient) for gradient in gradients]

    return embeddings, backward


def microbatched(
    encode: Encode,
    inputs: dict[str, tf.Tensor],
    variables: list[keras.Variable],
    state: RandomState,
    microbatch_size: int,
) -> tuple[Embeddings, Backward]:
    """Encodes `microbatch_size` examples at a time in a graph loop. See `whole_batch` for the other arguments.

    Raises:
        ValueError: if the batch of a replica is not divisible by the microbatch size.
    """
    examples = next(iter(inputs.values())).shape[0]
    if examples % microbatch_size:
        raise ValueError(
            f"Expected a microbatch_size that divides the batch of a replica, {examples}. Received: {microbatch_size}."
        )
    trips = examples // microbatch_size
    cut = {side: tf.reshape(value, (trips, microbatch_size, *value.shape[1:])) for side, value in inputs.items()}

    def microbatch(k):
        return RandomState(state.seed, state.first_example + k * microbatch_size), {s: v[k] for s, v in cut.items()}

    def embed(k, *arrays):
        here, values = microbatch(k)
        with random_state(here):
            rows = [encode(side, value) for side, value in values.items()]
        return k + 1, *[array.write(k, row) for array, row in zip(arrays, rows, strict=True)]

    _, *arrays = tf.while_loop(
        lambda k, *_: k < trips,
        embed,
        (tf.constant(0), *[tf.TensorArray(tf.float32, trips) for _ in inputs]),
        parallel_iterations=1,
        maximum_iterations=trips,
    )
    embeddings = {side: _joined(array, examples) for side, array in zip(inputs, arrays, strict=True)}

    def backward(upstream):
        cut_upstream = {side: tf.reshape(g, (trips, microbatch_size, g.shape[1])) for side, g in upstream.items()}

        def accumulate(k, *gradients):
            here, values = microbatch(k)
            _, of_weights = whole_batch(encode, values, variables, here)
            new = of_weights({side: g[k] for side, g in cut_upstream.items()})
            return k + 1, *[before + gradient for before, gradient in zip(gradients, new, strict=True)]

        _, *gradients = tf.while_loop(
            lambda k, *_: k < trips,
            accumulate,
            (tf.constant(0), *[tf.zeros(v.shape, v.dtype) for v in variables]),
            parallel_iterations=1,
            maximum_iterations=trips,
        )
        return gradients

    return embeddings, backward


def _joined(array, examples):
    stacked = array.stack()
    return tf.reshape(stacked, (examples, stacked.shape[-1]))
