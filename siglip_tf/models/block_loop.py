"""Equal blocks as one loop each way in place of unrolled copies: the same numbers, a graph of one block.

A TPU's compiler needs minutes for twelve copies of a block where it needs one for a loop. Weights are stacked for the
step, in the compute dtype; what the blocks' remat policy keeps lies in one array a tensor.
"""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from siglip_tf.primitives.dropout import RandomState, current_random_state, random_state
from siglip_tf.primitives.hashing import hash_bits


def loop_over_blocks(blocks: Sequence[Any], x: tf.Tensor) -> tf.Tensor:
    """x through all blocks in training mode.

    Args:
        blocks: `transformer.Block`s of one configuration.
        x: (batch * tokens, width).

    Returns:
        The same shape; differentiable once in x and in the blocks' weights. Random masks differ from those of unrolled
        blocks, as the number of the block comes from the loop.
    """
    template = blocks[0]
    steps = template.steps(training=True)
    weights = [_weights(block) for block in blocks]
    # Heads are laid side by side here: an axis of 64 is half a TPU tile, and gradients would be copied to fit it.
    matrices = {id(weight): shape for weight, shape in template.attention.matrices}
    shapes = [matrices.get(id(weight), weight.shape) for weight in weights[0]]
    stacked = [
        tf.stack([tf.reshape(tf.cast(tf.convert_to_tensor(v.value), template.compute_dtype), shape) for v in same])
        for same, shape in zip(zip(*weights, strict=True), shapes, strict=True)
    ]
    depth, state = len(blocks), current_random_state()
    kept = list(dict.fromkeys(name for step in steps for name in step.reads))
    loop = {"parallel_iterations": 1, "maximum_iterations": depth}

    def run(step, tensors, values, number):
        mapping = [(w, tf.reshape(value, w.shape)) for w, value in zip(weights[0], values, strict=True)]
        with keras.StatelessScope(state_mapping=mapping), random_state(_state_of(state, number)):
            return tf.nest.flatten(step(*tensors))

    def forward(number, x, arrays, stacked):
        values = [weight[number] for weight in stacked]
        tensors = {"x": x}
        for step in steps:
            results = run(step, [tensors[name] for name in step.reads], values, number)
            tensors.update(zip(step.writes, results, strict=True))
        return number + 1, tensors["y"], [a.write(number, tensors[n]) for a, n in zip(arrays, kept, strict=True)]

    def backward(number, dy, gradients, arrays, stacked):
        values = [weight[number] for weight in stacked]
        tensors = {name: array.read(number) for name, array in zip(kept, arrays, strict=True)}
        upstream, of_weights = {"y": dy}, [tf.zeros_like(value) for value in values]
        for step in reversed(steps):
            inputs = [tensors[name] for name in step.reads]
            with tf.GradientTape() as tape:
                tape.watch([inputs, values])
                results = run(step, inputs, values, number)
            of_inputs, more = tape.gradient(results, [inputs, values], [upstream[name] for name in step.writes])
            of_weights = [a if b is None else a + b for a, b in zip(of_weights, more, strict=True)]
            for name, gradient in zip(step.reads, of_inputs, strict=True):
                upstream[name] = upstream[name] + gradient if name in upstream else gradient
        gradients = [a.write(number, g) for a, g in zip(gradients, of_weights, strict=True)]
        return number - 1, upstream["x"], gradients

    @tf.custom_gradient
    def all_blocks(x, *stacked):
        empty = [tf.TensorArray(x.dtype, depth, element_shape=x.shape, clear_after_read=False) for _ in kept]
        _, y, arrays = tf.while_loop(
            lambda number, *_: number < depth,
            lambda number, x, arrays: forward(number, x, arrays, stacked),
            (tf.constant(0), x, empty),
            **loop,
        )

        def gradient(dy):
            empty = [tf.TensorArray(w.dtype, depth, element_shape=w.shape[1:]) for w in stacked]
            _, dx, gradients = tf.while_loop(
                lambda number, *_: number >= 0,
                lambda number, dy, gradients: backward(number, dy, gradients, arrays, stacked),
                (tf.constant(depth - 1), dy, empty),
                **loop,
            )
            return dx, *[tf.ensure_shape(g.stack(), w.shape) for g, w in zip(gradients, stacked, strict=True)]

        return y, gradient

    return all_blocks(x, *stacked)


def _weights(block):
    return [v for v in block.weights if tf.as_dtype(v.dtype).is_floating]


def _state_of(state, number):
    """Blocks share the template's layers, so the number of the block tells their masks apart."""
    if state is None:
        return None
    return RandomState(tf.bitcast(hash_bits(state.seed, number), tf.int32), state.first_example)
