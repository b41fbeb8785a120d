"""The optimizers that the distribution tests train with, clipping on."""

import keras

from siglip_tf import optimizers


def optimizer(name: str) -> keras.optimizers.Optimizer:
    if name == "adamw":
        return keras.optimizers.AdamW(1e-3, global_clipnorm=0.5, epsilon=1e-6)
    if name == "lion":
        return keras.optimizers.Lion(1e-4, global_clipnorm=0.5)
    # Momentum in bfloat16 rounds differently where float32 sums differ in the last bit: 2^-9 of a step.
    return optimizers.ScalingViTAdafactor(1e-4, global_clipnorm=0.5)
