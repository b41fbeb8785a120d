"""Initializers of the reference implementation that Keras does not have."""

import math

import keras


def xavier_flattened(inputs: int, outputs: int) -> keras.initializers.Initializer:
    """Returns Xavier uniform for a kernel (inputs..., outputs...) that is treated as one (inputs, outputs) matrix.

    Keras would treat a kernel (d, H, k) as a convolution's. Source: flax's `DenseGeneral`, which flattens first.
    """
    limit = math.sqrt(6 / (inputs + outputs))
    return keras.initializers.RandomUniform(-limit, limit)


def embedding_normal(width: int) -> keras.initializers.Initializer:
    """Returns a normal initializer with standard deviation 1 / sqrt(width), for token and position embeddings."""
    return keras.initializers.RandomNormal(stddev=1 / math.sqrt(width))
