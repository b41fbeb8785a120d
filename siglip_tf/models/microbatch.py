"""Towers forward and backward, for the whole batch at once or microbatch by microbatch.

The loss needs embeddings of the whole batch, and its gradients in them are known from one pass (losses). So the towers
can run a first time for their embeddings alone, a few examples at a time, and a second time for the gradients of their
weights: memory is set by the microbatch, the gradient is that of the whole batch.
"""

from collections.abc import Callable

import keras
import tensorflow as tf

from siglip_tf.optimizers import gradient_tape
from siglip_tf.primitives.dropout import RandomState, random_state

# What a tower pass gives: {side: embeddings (b, embed_dim)} and, from gradients of these, gradients of `variables`.
Embeddings = dict[str, tf.Tensor]
Backward = Callable[[Embeddings], list[tf.Tensor]]
Encode = Callable[[str, tf.Tensor], tf.Tensor]


def whole_batch(
    encode: Encode, inputs: dict[str, tf.Tensor], variables: list[keras.Variable], state: RandomState
) -> tuple[Embeddings, Backward]:
    """All examples at once.

    Args:
        encode: (side, inputs of that side) -> embeddings (b, embed_dim), in training mode.
        inputs: {side: (b, ...)}.
        variables: the trainable variables behind `encode`.
        state: of the random layers.
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
    """`microbatch_size` examples at a time, in loops that stay loops in the graph; arguments as `whole_batch`.

    Raises:
        ValueError: unless the microbatch size divides the batch of a replica.
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
