"""Tells layers what will run the graph that is being traced: TensorFlow's own executor, or XLA for a kind of device."""

import contextlib
import threading
from collections.abc import Iterator, Sequence

import tensorflow as tf

from siglip_tf.primitives.tensorflow_internals import optimization_barrier

DEVICES = ("CPU", "GPU", "TPU")


class _Target(threading.local):
    device: str | None = None


_target = _Target()


@contextlib.contextmanager
def compiling_for(device: str | None) -> Iterator[None]:
    """Sets what will run the graph that is traced inside the context.

    Args:
        device: "CPU", "GPU", or "TPU" for XLA on that device; None for TensorFlow's own executor.

    Raises:
        ValueError: the device is unknown.
    """
    if device is not None and device not in DEVICES:
        raise ValueError(f"Expected None or one of {', '.join(DEVICES)}. Received: {device!r}.")
    before = _target.device
    _target.device = device
    try:
        yield
    finally:
        _target.device = before


def target_device() -> str | None:
    """Returns the device that `compiling_for` has set for the graph that is being traced, or None."""
    return _target.device


def is_compiling_with_xla() -> bool:
    """Says whether XLA will compile the graph that is being traced."""
    return _target.device is not None


def are_ampere_or_later(gpus: Sequence[tf.config.PhysicalDevice]) -> bool:
    """Says whether every GPU is known to support bfloat16 and cuDNN's attention. It is True without GPUs."""
    found = [tf.config.experimental.get_device_details(gpu).get("compute_capability") for gpu in gpus]
    return all(capability is not None and tuple(capability) >= (8, 0) for capability in found)


@tf.custom_gradient
def stored(x: tf.Tensor):
    """Returns the same tensor, but XLA writes it to memory, so its producer and its consumers are separate kernels."""
    y = optimization_barrier([x])[0] if is_compiling_with_xla() else tf.identity(x)
    return y, lambda upstream: upstream
