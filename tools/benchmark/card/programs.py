"""Programs that were lowered to StableHLO, compiled and run by jax' own client."""

import pathlib

import numpy as np
from oracle import BIAS, LOG_TEMPERATURE, embeddings, errors

HERE = pathlib.Path(__file__).parent


class Program:
    """A StableHLO module compiled for the first device of jax."""

    def __init__(self, entry):
        import jax
        from jax._src import compiler
        from jax._src.interpreters import mlir
        from jax._src.lib import xla_client
        from jax._src.lib.mlir import ir

        self.entry, self.device = entry, jax.devices()[0]
        client = self.device.client
        options = compiler.get_compile_options(
            num_replicas=1, num_partitions=1, device_assignment=np.zeros((1, 1), int)
        )
        with mlir.make_ir_context():
            module = ir.Module.parse((HERE / entry["file"]).read_text())
            bytecode = mlir.module_to_bytecode(module)
        devices = xla_client.DeviceList((self.device,))
        self._executable = client.compile_and_load(bytecode, devices, options)
        stats = self._executable.get_compiled_memory_stats()
        self.temporary_bytes = stats.temp_size_in_bytes

    def place(self, values):
        """Arrays on the device, in the order of the program's arguments."""
        import jax

        with jax.enable_x64(True):  # counters are int64
            placed = [jax.device_put(value, self.device) for value in values]
        return placed

    def run(self, placed):
        """The results of one call, which has finished."""
        outputs = self._executable.execute_sharded(placed)
        outputs = [copies[0] for copies in outputs.disassemble_into_single_device_arrays()]
        for value in outputs:
            value.block_until_ready()
        return outputs


def value_of(argument, rng):
    """A value for an argument of a training step: weights as they start, or nearly so, zeros for what counts."""
    shape, dtype, name = tuple(argument["shape"]), np.dtype(argument["dtype"]), argument["name"]
    if argument["kind"] == "data":
        if name == "image":
            return rng.integers(0, 256, shape).astype(dtype) if dtype == np.uint8 else rng.random(shape, np.float32)
        return rng.integers(0, argument["below"], shape).astype(dtype)
    if argument["kind"] != "variable" or dtype.kind != "f" or "optimizer" in name:
        return np.zeros(shape, dtype)
    if not shape:
        return np.asarray(LOG_TEMPERATURE if name.endswith("log_temperature") else BIAS, dtype)
    if name.endswith(("gamma", "scale")):
        return np.ones(shape, dtype)
    return (0.02 * rng.standard_normal(shape)).astype(dtype) if len(shape) > 1 else np.zeros(shape, dtype)


def ours(entry, program):
    """(one timed call, what to report) of a compiled program."""
    if entry["kind"] == "loss":
        images, texts = embeddings(entry["n"], entry["dim"])
        values = {"images": images, "texts": texts, "log_temperature": LOG_TEMPERATURE, "bias": BIAS}
        placed = program.place([values.get(a["name"], np.int32(0)) for a in entry["arguments"]])  # or the replica's id
        loss, dx, dy, *_ = program.run(placed)
        found = {"errors": errors(images, texts, np.asarray(loss), dx, dy)}
    else:
        rng = np.random.default_rng(0)
        placed = program.place([value_of(a, rng) for a in entry["arguments"]])
        outputs = program.run(placed)
        # A step's variables share memory with its results, so each step takes those of the step before.
        names = [result["name"] for result in entry["results"]]
        found = {"loss": float(np.asarray(outputs[names.index("loss")]))}
        state = {"placed": program.place([value_of(a, np.random.default_rng(0)) for a in entry["arguments"]])}

        def step():
            results = program.run(state["placed"])
            state["placed"] = [
                results[a["result"]] if a["result"] is not None else value
                for a, value in zip(entry["arguments"], state["placed"], strict=True)
            ]

        found["temporary_megabytes"] = program.temporary_bytes / 2**20
        return step, found
    found["temporary_megabytes"] = program.temporary_bytes / 2**20
    return lambda: program.run(placed), found
