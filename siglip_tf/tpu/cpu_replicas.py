"""Runs a TPU's program on CPU replicas: the same StableHLO with another XLA backend."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from siglip_tf.tpu import jax_internals
from siglip_tf.tpu.compiler import INSTALL
from siglip_tf.tpu.replica_program import ReplicaProgram


class CPUReplicas:
    """A compiled training step on as many CPU devices as the program has replicas.

    Args:
        program: the program. See `replica_program.trace_step`.
        module: its StableHLO. See `lowering.lower`.

    Raises:
        ImportError: if jax is not installed, whose XLA runs the program.
        ValueError: if the program contains a TPU kernel, which a CPU cannot run.

    Example:

    ```python
    replicas = CPUReplicas(program, lower(program))
    variables, logs = replicas.step(variables, global_batch)
    ```
    """

    def __init__(self, program: ReplicaProgram, module: str):
        if "@tpu_custom_call" in module:
            raise ValueError("Expected a program without TPU kernels. Received one; trace it with attention='einsum'.")
        try:
            import jax
        except ImportError as error:
            raise ImportError(INSTALL) from error
        jax.config.update("jax_platforms", "cpu")  # otherwise jax first looks for a TPU and logs a warning
        self.program = program
        client = jax_internals.cpu_client(program.replicas)
        self._devices = client.devices()[: program.replicas]
        options = jax_internals.compile_options(program.replicas)
        with jax_internals.parsed(module) as parsed:
            self._executable = jax_internals.compile_and_load(client, parsed, self._devices, options)

    @property
    def temporary_bytes(self) -> int:
        """The bytes of one replica's temporaries, without arguments and results, for XLA's CPU compiler."""
        return self._executable.get_compiled_memory_stats().temp_size_in_bytes

    def step(
        self, variables: Mapping[str, np.ndarray], batch: Mapping[str, np.ndarray]
    ) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        """Runs one step of all replicas.

        Args:
            variables: the value of every variable of the program, by name.
            batch: the arrays (global batch, ...) of the global batch, by key. Replica r uses the r-th part.

        Returns:
            All variables after the step, and the step's logs.

        Raises:
            ValueError: if a variable or a key is missing or has another shape.
            AssertionError: if replicas end with different variables or logs.
        """
        after, logs = dict(variables), dict[str, Any]()
        for result, copies in zip(self.program.results, self.run(variables, batch), strict=True):
            for replica, copy in enumerate(copies[1:], 1):
                if not np.array_equal(copy, copies[0], equal_nan=True):
                    raise AssertionError(f"Replica {replica} differs from replica 0 in {result.name} ({result.kind}).")
            (after if result.kind == "variable" else logs)[result.name] = copies[0]
        return after, logs

    def run(self, variables: Mapping[str, np.ndarray], batch: Mapping[str, np.ndarray]) -> list[list[np.ndarray]]:
        """Returns the value on every replica for each of the program's results. The arguments are those of `step`."""
        shards = [self._shards(argument, variables, batch) for argument in self.program.arguments]
        outputs = self._executable.execute_sharded(shards).disassemble_into_single_device_arrays()
        return [[np.asarray(copy) for copy in copies] for copies in outputs]

    def _shards(self, argument, variables, batch):
        replicas = self.program.replicas
        if argument.kind == "replica_id":
            values = [np.asarray(r, argument.dtype.as_numpy_dtype) for r in range(replicas)]
        else:
            given = variables if argument.kind == "variable" else batch
            if argument.name not in given:
                raise ValueError(
                    f"Expected a value of {argument.kind} {argument.name!r}. Received: {sorted(given)[:20]}."
                )
            value = np.asarray(given[argument.name], argument.dtype.as_numpy_dtype)
            expected = argument.shape
            if argument.kind == "data":
                expected = (argument.shape[0] * replicas, *argument.shape[1:])
            if value.shape != expected:
                raise ValueError(f"Expected {argument.name!r} of shape {expected}. Received: {value.shape}.")
            values = np.split(value, replicas) if argument.kind == "data" else [value] * replicas
        return _on_devices(values, self._devices)


def _on_devices(values, devices):
    """Returns one array whose copy on device r is values[r]. jax assumes that the copies are equal and never checks."""
    import jax

    with jax.enable_x64(True):  # counters are int64
        copies = [jax.device_put(value, device) for value, device in zip(values, devices, strict=True)]
        sharding = jax.sharding.NamedSharding(jax.sharding.Mesh(np.array(devices), "r"), jax.sharding.PartitionSpec())
        return jax.make_array_from_single_device_arrays(values[0].shape, sharding, copies)
