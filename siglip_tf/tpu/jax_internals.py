"""The parts of jax that have no public name, each with why it is needed and what would replace it.

This file imports nothing of this project, as the compile worker reads it in a process without TensorFlow. It holds for
jax 0.8 and 0.10.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np


@contextlib.contextmanager
def parsed(text: str) -> Iterator[Any]:
    """The MLIR module of a StableHLO text, inside the context that it lives in.

    Why: `jax.jit` compiles what jax traced, and this text comes from TensorFlow. Public call that would replace it:
    `jax.export.deserialize` for modules of another origin; it takes jax's own format alone.
    """
    from jax._src.interpreters import mlir
    from jax._src.lib.mlir import ir

    with mlir.make_ir_context():
        yield ir.Module.parse(text)


def bytecode(module: Any) -> bytes:
    """A module as its bytes, which the CPU client compiles. Why and replacement: see `parsed`."""
    from jax._src.interpreters import mlir

    return mlir.module_to_bytecode(module)


def compile_options(replicas: int) -> Any:
    """Options for `replicas` replicas of one partition each, in order.

    Why: `jax.jit` makes one replica of many partitions, and TensorFlow's collectives are between replicas. No public
    call takes the number of replicas since `jax.pmap` compiles by partitions.
    """
    from jax._src import compiler

    return compiler.get_compile_options(
        num_replicas=replicas, num_partitions=1, device_assignment=np.arange(replicas).reshape(replicas, 1)
    )


def compile_module(module: Any, devices: Sequence[Any], options: Any) -> Any:
    """An executable of a module for devices that need not be there.

    Why: `jax.experimental.topologies` compiles functions of jax alone. Public call that would replace it: `compile` of
    a topology's client, should it become public.
    """
    from jax._src.lib import xla_client

    return devices[0].client.compile(module, xla_client.DeviceList(tuple(devices)), options)


def cpu_client(devices: int) -> Any:
    """A client with as many CPU devices as asked for.

    Why: jax's own client is made once a process, with the number of devices it then has. Public call that would
    replace it: the setting `jax_num_cpu_devices`, if it could change later.
    """
    from jax._src.lib import xla_client

    return xla_client.make_cpu_client(num_devices=devices)


def compile_and_load(client: Any, module: Any, devices: Sequence[Any], options: Any) -> Any:
    """An executable of a module on devices that are there. Why and replacement: see `parsed`."""
    from jax._src.lib import xla_client

    return client.compile_and_load(bytecode(module), xla_client.DeviceList(tuple(devices)), options)
