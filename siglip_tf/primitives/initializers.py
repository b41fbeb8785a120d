"""Initial values of the reference implementation that Keras has no name for."""

import math

import keras


def xavier_flattened(inputs: int, outputs: int) -> keras.initializers.Initializer:
    """Xavier uniform of a kernel (inputs..., outputs...) seen as one (inputs, outputs) matrix.

    Keras would read (d, H, k) as a convolution. Source: flax's `DenseGeneral`, which flattens first.
    """
    limit = math.sqrt(6 / (inputs + outputs))
    return keras.initializers.RandomUniform(-limit, limit)


def embedding_normal(width: int) -> keras.initializers.Initializer:
    """Normal with standard deviation 1 / sqrt(width): token and position embeddings."""
    return keras.initializers.RandomNormal(stddev=1 / math.sqrt(width))
