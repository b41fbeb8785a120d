"""Optimizers with the steps of the reference chain, schedules in 0..1, durations, and parameter groups."""

from siglip_tf.optimizers.adafactor import ScalingViTAdafactor
from siglip_tf.optimizers.adamw import AdamW
from siglip_tf.optimizers.chain import ReferenceChain
from siglip_tf.optimizers.durations import Duration
from siglip_tf.optimizers.groups import ParameterGroup, freeze, gradient_tape
from siglip_tf.optimizers.lion import Lion
from siglip_tf.optimizers.schedules import Constant, Cosine, Linear, ReciprocalSqrt

__all__ = [
    "AdamW",
    "Constant",
    "Cosine",
    "Duration",
    "Linear",
    "Lion",
    "ParameterGroup",
    "ReciprocalSqrt",
    "ReferenceChain",
    "ScalingViTAdafactor",
    "freeze",
    "gradient_tape",
]
