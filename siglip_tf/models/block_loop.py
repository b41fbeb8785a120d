"""Runs equal blocks in a loop, forward and backward, instead of unrolled copies.

The results are the same, but the graph contains only one block. A TPU's compiler needs several minutes for twelve
copies of a block, and one minute for a loop. The loop stacks the blocks' weights in the compute dtype and keeps the
input of every block. The backward pass computes each block again.
"""

import itertools
from collections.abc import Sequence

import keras
import tensorflow as tf

from siglip_tf.primitives.dropout import RandomState, current_random_state, random_state
from siglip_tf.primitives.hashing import hash_bits
from siglip_tf.primitives.rematerialization import floating_weights


def loop_over_blocks(blocks: Sequence[keras.layers.Layer], x: tf.Tensor) -> tf.Tensor:
    """Applies all blocks to x in training mode.

    Blocks may differ, because some of their weights are frozen or they have adapters. Then each sequence of equal
    blocks gets its own loop, so that frozen blocks at the bottom need no backward pass.

    Args:
        blocks: `transformer.Block`s with the same configuration.
        x: (batch * tokens, width).

    Returns:
        (batch * tokens, width), once differentiable in x and in the blocks' trainable weights. Random masks differ from
        those of unrolled blocks, because the loop provides the number of the block.
    """
    first = 0
    for _, group in itertools.groupby(blocks, _kind):
        equal = list(group)
        x = _loop(equal, x, first)
        first += len(equal)
    return x


def _kind(block):
    return tuple((tuple(weight.shape), weight.trainable) for weight in floating_weights(block))


def _loop(blocks, x, first):
    template, depth, state = blocks[0], len(blocks), current_random_state()
    weights = floating_weights(template)
    trained = [position for position, weight in enumerate(weights) if weight.trainable]
    # Join the axes of the heads: an axis of 64 is half a TPU tile, and gradients would be copied to fit it.
    matrices = {id(weight): shape for weight, shape in template.attention.matrices}
    shapes = [matrices.get(id(weight), weight.shape) for weight in weights]
    of_blocks = zip(*(floating_weights(block) for block in blocks), strict=True)
    stacked = [
        tf.stack([tf.reshape(tf.cast(tf.convert_to_tensor(v.value), template.compute_dtype), shape) for v in same])
        for same, shape in zip(of_blocks, shapes, strict=True)
    ]

    def block(number, x, values):
        mapping = [(weight, tf.reshape(value, weight.shape)) for weight, value in zip(weights, values, strict=True)]
        with keras.StatelessScope(state_mapping=mapping), random_state(_state_of(state, first + number)):
            return template(x, training=True)

    def loop(condition, body, variables):
        return tf.while_loop(condition, body, variables, parallel_iterations=1, maximum_iterations=depth)

    @tf.custom_gradient
    def all_blocks(x, *stacked):
        def forward(number, x, kept):
            return number + 1, block(number, x, [w[number] for w in stacked]), kept.write(number, x)

        kept = tf.TensorArray(x.dtype, depth, element_shape=x.shape, clear_after_read=False)
        _, y, kept = loop(lambda number, *_: number < depth, forward, (tf.constant(0), x, kept))

        def gradient(dy):
            def backward(number, dy, gradients):
                x, values = kept.read(number), [w[number] for w in stacked]
                wanted = [x, *(values[position] for position in trained)]
                with tf.GradientTape(watch_accessed_variables=False) as tape:
                    tape.watch(wanted)
                    y = block(number, x, values)
                dx, *found = tape.gradient(y, wanted, dy, unconnected_gradients=tf.UnconnectedGradients.ZERO)
                return number - 1, dx, [g.write(number, d) for g, d in zip(gradients, found, strict=True)]

            empty = [tf.TensorArray(stacked[p].dtype, depth, element_shape=stacked[p].shape[1:]) for p in trained]
            start = (tf.constant(depth - 1), dy, empty)
            _, dx, gradients = loop(lambda number, *_: number >= 0, backward, start)
            of_weights = [None] * len(stacked)
            for position, array in zip(trained, gradients, strict=True):
                of_weights[position] = tf.ensure_shape(array.stack(), stacked[position].shape)
            return dx, *of_weights

        return y, gradient

    return all_blocks(x, *stacked)


def _state_of(state, number):
    """Returns a block's random state. Blocks share the template's layers, so the seed includes the block's number."""
    if state is None:
        return None
    return RandomState(tf.bitcast(hash_bits(state.seed, number), tf.int32), state.first_example)
