"""What will compile the graph that is traced now: TensorFlow's own executor, or XLA for a kind of device."""

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
    """Says what will compile the graph that is traced inside.

    Args:
        device: XLA for "CPU", "GPU" or "TPU"; None for TensorFlow's own executor.
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
    """What `compiling_for` says of the graph that is traced now."""
    return _target.device


def is_compiling_with_xla() -> bool:
    """Whether XLA compiles the graph that is traced now."""
    return _target.device is not None


def are_ampere_or_later(gpus: Sequence[tf.config.PhysicalDevice]) -> bool:
    """Whether every card is known to compute in bfloat16 and to have cuDNN's attention; True for no cards."""
    found = [tf.config.experimental.get_device_details(gpu).get("compute_capability") for gpu in gpus]
    return all(capability is not None and tuple(capability) >= (8, 0) for capability in found)


@tf.custom_gradient
def stored(x: tf.Tensor):
    """The same tensor, which XLA writes to memory once: its producer and its readers stay separate kernels."""
    y = optimization_barrier([x])[0] if is_compiling_with_xla() else tf.identity(x)
    return y, lambda upstream: upstream
