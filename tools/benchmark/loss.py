"""Measures the sigmoid loss with gradients: time against matmuls and other libraries, peak memory, and error.

python -m tools.benchmark loss [--n 4096 8192] [--dim 768] [--rounds 9]
python -m tools.benchmark loss --memory-only --n 65536
python -m tools.benchmark loss --replicas 1 2 4 8 [--n 1024]

All candidates are timed in turn in one process, round after round, so that other load on the machine affects all of
them. Memory is the growth of a new process' resident peak, without inputs and libraries. The error is the largest error
of the loss and all gradients against float64. oneDNN is on if it helps, for every candidate that uses TensorFlow.

There are two floors. "3 tiled matmuls" are the products that the loss needs, with the same tiles and loops, and nothing
else. The loss cannot be faster with these tiles. "3 whole matmuls" write and read the whole n x n matrix. That is
faster if memory bandwidth is free, and slower if other work takes it.

With --replicas, the benchmark measures the memory of one of D replicas with n pairs each, from XLA's compiler for CPUs
(temporary buffers; nothing runs). It compares this project's program for TPUs with the usual methods in jax.

Libraries that are not installed are left out: `pip install 'siglip-tf[bench]'`, and
`pip install --no-deps --target FOLDER open_clip_torch siglip-kernel` with FOLDER in PYTHONPATH.
"""

import argparse
import functools
import importlib.util
import inspect
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import siglip_tf
from siglip_tf import processor

OURS = "siglip_tf"
FLOOR = "3 tiled matmuls"
WHOLE = "3 whole matmuls"
_LOG_TEMPERATURE, _BIAS = np.float32(math.log(10)), np.float32(-10)


def _inputs(n, dim):
    rng = np.random.default_rng(0)
    sides = rng.standard_normal((2, n, dim), np.float32)
    return [side / np.linalg.norm(side, axis=1, keepdims=True) for side in sides]


def _siglip_tf(precision="float32"):
    def make(n, dim):
        import tensorflow as tf

        @tf.function(autograph=False)
        def step(*inputs):
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                loss = siglip_tf.losses.sigmoid_loss(*inputs, precision=precision)
            return loss, *tape.gradient(loss, inputs)

        return _on_tensors(step, n, dim)

    return make


def _tiled_matmuls(n, dim):
    import tensorflow as tf

    from siglip_tf.distribution import SingleDevice
    from siglip_tf.losses.all_pairs import Total, automatic_tile_size, visit_all_pairs

    def tile(images, texts, _):
        (x,), (y,) = images, texts
        logits = tf.matmul(x, y, transpose_b=True)
        return [tf.matmul(logits, y)], [tf.matmul(logits, x, transpose_a=True)]

    @tf.function(autograph=False)
    def step(x, y, *_):
        total = [Total((dim,))]
        (dx,), (dy,) = visit_all_pairs(SingleDevice(), [x], [y], total, total, tile, automatic_tile_size(n))
        return dx[0, 0], dx, dy

    return _on_tensors(step, n, dim)


def _whole_matmuls(n, dim):
    import tensorflow as tf

    @tf.function(autograph=False)
    def step(x, y, *_):
        logits = tf.matmul(x, y, transpose_b=True)
        dx, dy = tf.matmul(logits, y), tf.matmul(logits, x, transpose_a=True)
        return dx[0, 0], dx, dy

    return _on_tensors(step, n, dim)


def _algorithm_1(jit):
    def make(n, dim):
        import tensorflow as tf

        @tf.function(autograph=False, jit_compile=jit)
        def step(*inputs):
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                x, y, t, b = inputs
                logits = tf.matmul(x, y, transpose_b=True) * tf.exp(t) + b
                labels = 2 * tf.eye(n) - tf.ones((n, n))
                loss = -tf.reduce_sum(tf.math.log_sigmoid(labels * logits)) / n
            return loss, *tape.gradient(loss, inputs)

        return _on_tensors(step, n, dim)

    return make


def _keras_hub(n, dim):
    import tensorflow as tf
    from keras_hub.src.models.siglip.siglip_loss import SigLIPLoss

    loss_function = SigLIPLoss()

    @tf.function(autograph=False)
    def step(*inputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            x, y, t, b = inputs
            loss = loss_function(2 * tf.eye(n) - 1, tf.matmul(x, y, transpose_b=True) * tf.exp(t) + b)
        return loss, *tape.gradient(loss, inputs)

    return _on_tensors(step, n, dim)


def _file_of(package, file):
    """Imports one file of a package without the package's __init__, which needs more dependencies."""
    folder = importlib.util.find_spec(package).submodule_search_locations[0]
    spec = importlib.util.spec_from_file_location(f"{package}_{file}", os.path.join(folder, f"{file}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _open_clip(n, dim):
    loss = _file_of("open_clip", "loss").SigLipLoss()
    return _on_torch(lambda x, y, t, b: loss(x, y, t.exp(), b), n, dim)


def _open_clip_chunked(n, dim):
    loss = _file_of("open_clip", "loss").SigLipLoss(chunk_size=min(1024, n))
    return _on_torch(lambda x, y, t, b: loss(x, y, t.exp(), b), n, dim)


def _siglip_kernel(n, dim):
    reference = _file_of("siglip_kernel", "reference").siglip_loss_chunked_reference
    return _on_torch(lambda x, y, t, b: reference(x, y, t.exp(), b, chunk_size=min(1024, n)), n, dim)


def _checkpointed(n, dim):
    """Computes chunks of rows, which the backward pass computes again, as GradCache does for towers."""
    import torch
    from torch.utils.checkpoint import checkpoint

    def chunk(rows, start, y, t, b):
        logits = rows @ y.T * t.exp() + b
        labels = -torch.ones_like(logits)
        labels[:, start : start + len(rows)] += 2 * torch.eye(len(rows))
        return -torch.nn.functional.logsigmoid(labels * logits).sum() / n

    def loss(x, y, t, b):
        starts = range(0, n, 1024)
        return sum(checkpoint(chunk, x[i : i + 1024], i, y, t, b, use_reentrant=False) for i in starts)

    return _on_torch(loss, n, dim)


def _on_torch(loss, n, dim):
    import torch

    inputs = [torch.tensor(side, requires_grad=True) for side in _inputs(n, dim)]
    inputs += [torch.tensor(float(value), requires_grad=True) for value in (_LOG_TEMPERATURE, _BIAS)]

    def run():
        for leaf in inputs:
            leaf.grad = None
        value = loss(*inputs)
        value.backward()
        return [value.detach().numpy(), *(leaf.grad.numpy() for leaf in inputs)]

    return run


def _on_tensors(step, n, dim):
    import tensorflow as tf

    inputs = [*map(tf.constant, _inputs(n, dim)), tf.constant(_LOG_TEMPERATURE), tf.constant(_BIAS)]

    def run():
        results = step(*inputs)
        results[0].numpy()
        return results

    return run


CANDIDATES: dict[str, Callable[[int, int], Callable[[], list]]] = {
    FLOOR: _tiled_matmuls,
    WHOLE: _whole_matmuls,
    OURS: _siglip_tf(),
    "siglip_tf, bfloat16": _siglip_tf("bfloat16"),
    "Algorithm 1, autodiff": _algorithm_1(False),
    "Algorithm 1, autodiff, XLA": _algorithm_1(True),
    "KerasHub": _keras_hub,
    "open_clip (torch)": _open_clip,
    "open_clip, chunk_size (torch)": _open_clip_chunked,
    "siglip-kernel's reference (torch)": _siglip_kernel,
    "checkpointed chunks (torch)": _checkpointed,
}
_NEEDS = {"KerasHub": ("keras_hub",), "siglip-kernel's reference (torch)": ("siglip_kernel", "torch")}
_NEEDS |= {name: ("open_clip", "torch") for name in CANDIDATES if name.startswith("open_clip")}
_NEEDS |= {"checkpointed chunks (torch)": ("torch",)}


def expected(n: int, dim: int) -> list[np.ndarray]:
    """Returns the loss and the gradients of Algorithm 1 in float64, computed by blocks of rows."""
    x, y = (side.astype(np.float64) for side in _inputs(n, dim))
    t, b = np.exp(np.float64(_LOG_TEMPERATURE)), np.float64(_BIAS)
    loss, dt, db, dx, dy = 0.0, 0.0, 0.0, np.empty_like(x), np.zeros_like(y)
    for start in range(0, n, 512):
        rows = slice(start, min(start + 512, n))
        logits = t * x[rows] @ y.T + b
        z = -np.ones_like(logits)
        z[np.arange(len(z)), np.arange(n)[rows]] = 1
        slopes = -z / (1 + np.exp(z * logits)) / n
        loss += np.logaddexp(0, -z * logits).sum() / n
        dx[rows], dt, db = t * slopes @ y, dt + (slopes * (logits - b)).sum(), db + slopes.sum()
        dy += t * slopes.T @ x[rows]
    return [loss, dx, dy, dt, db]


def error(found: list, right: list[np.ndarray]) -> float:
    """Returns the largest error of the loss and the gradients, each relative to its largest value."""
    pairs = zip(found, right, strict=True)
    return max(float(np.max(np.abs(np.asarray(a, np.float64) - b)) / np.max(np.abs(b))) for a, b in pairs)


def measure_times(names: list[str], n: int, dim: int, rounds: int) -> tuple[dict[str, list[float]], dict[str, list]]:
    """Times the candidates in turn. Returns the seconds of each round, and the loss and gradients, by candidate."""
    functions = {name: CANDIDATES[name](n, dim) for name in names}
    times: dict[str, list[float]] = {name: [] for name in names}
    results = {}
    for round_number in range(rounds + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            found = function()
            seconds = time.perf_counter() - start
            if round_number:  # the first one traces
                times[name].append(seconds)
            else:
                results[name] = [np.array(value) for value in found]
            print(f"\r  n={n}: round {round_number}/{rounds}, {name:34}", end="", file=sys.stderr, flush=True)
    print(f"\r{'':74}\r", end="", file=sys.stderr)
    return times, results


def measure_memory(name: str, n: int, dim: int) -> float:
    """Returns the peak MB of one forward and backward pass in a new process, without inputs and libraries."""
    command = [sys.executable, "-m", __package__, "loss", "--child", name, "--n", str(n), "--dim", str(dim)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def _child(name, n, dim):
    CANDIDATES[name](64, dim)()  # loads libraries and starts threads before the measurement
    run = CANDIDATES[name](n, dim)
    # Reset the peak, because it otherwise includes memory of the parent from before this process was started.
    Path("/proc/self/clear_refs").write_text("5")
    before = _peak_megabytes()
    run()
    print(_peak_megabytes() - before)


def _peak_megabytes():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def _why_not(name):
    """Returns why a candidate cannot run on this machine, or None."""
    missing = [package for package in _NEEDS.get(name, ()) if not importlib.util.find_spec(package)]
    if missing:
        return f"{missing[0]} is not installed (see --help)"
    if "chunk_size" in name:
        parameters = inspect.signature(_file_of("open_clip", "loss").SigLipLoss.__init__).parameters
        if "chunk_size" not in parameters:
            return "this release of open_clip has no chunk_size"
    return None


def replica_megabytes(replicas: int, n: int, dim: int) -> dict[str, float]:
    """Returns the temporary MB of one replica with n pairs, from XLA's compiler for CPUs. Nothing runs."""
    import jax
    import tensorflow as tf

    from siglip_tf import tpu
    from siglip_tf.distribution import current_ring

    def ours(batch):
        result = siglip_tf.losses.sigmoid_loss_and_gradients(
            current_ring(), batch["x"], batch["y"], tf.constant(_LOG_TEMPERATURE), tf.constant(_BIAS)
        )
        return [result.loss, *result.gradients()]

    side = tf.TensorSpec((n, dim))
    program = tpu.trace_step(ours, {"x": side, "y": side}, tpu.made_up_tpu_strategy(replicas), [])
    found = {OURS: tpu.CPUReplicas(program, tpu.lower(program)).temporary_bytes / 2**20}

    def pairs(x, y, t, b, own):
        logits = jax.numpy.exp(t) * x @ y.T + b
        labels = 2 * jax.numpy.eye(n) - 1 if own else -1.0
        return -jax.numpy.sum(jax.nn.log_sigmoid(labels * logits))

    def ring(x, y, t, b, again):
        step = jax.checkpoint(pairs, static_argnums=4) if again else pairs
        loss = step(x, y, t, b, True)
        for _ in range(1, replicas):
            y = jax.lax.ppermute(y, "r", [(i, (i + 1) % replicas) for i in range(replicas)])
            loss += step(x, y, t, b, False)
        return loss / (n * replicas)

    def gathered(x, y, t, b):
        everyone = jax.lax.all_gather(y, "r", tiled=True)
        logits = jax.numpy.exp(t) * x @ everyone.T + b
        own = jax.lax.axis_index("r") * n + jax.numpy.arange(n)
        labels = 2.0 * (own[:, None] == jax.numpy.arange(n * replicas)[None, :]) - 1
        return -jax.numpy.sum(jax.nn.log_sigmoid(labels * logits)) / (n * replicas)

    ways = {
        "ring, autodiff (jax)": functools.partial(ring, again=False),
        "ring, checkpointed (jax)": functools.partial(ring, again=True),
        "all-gather, autodiff (jax)": gathered,
    }
    specification = jax.sharding.PartitionSpec
    mesh = jax.sharding.Mesh(np.array(jax.devices("cpu")[:replicas]), "r")
    shapes = [jax.ShapeDtypeStruct((n * replicas, dim), np.float32)] * 2 + [jax.ShapeDtypeStruct((), np.float32)] * 2
    for name, loss in ways.items():
        function = jax.shard_map(
            jax.value_and_grad(loss, (0, 1, 2, 3)),
            mesh=mesh,
            in_specs=(specification("r"), specification("r"), specification(), specification()),
            out_specs=(specification(), (specification("r"), specification("r"), specification(), specification())),
            check_vma=False,
        )
        analysis = jax.jit(function).lower(*shapes).compile().memory_analysis()
        found[name] = analysis.temp_size_in_bytes / 2**20
    return found


def _print_replicas(replicas, n, dim):
    print(f"\nTemporary MB of one of D replicas of {n:,} pairs each, d = {dim}, float32, forward and backward")
    found = {count: replica_megabytes(count, n, dim) for count in replicas}
    print(f"  {'':28}" + "".join(f"{f'D = {count}':>10}" for count in replicas))
    for name in found[replicas[0]]:
        print(f"  {name:28}" + "".join(f"{found[count][name]:10,.0f}" for count in replicas), flush=True)


def main(argv: list[str]) -> None:
    """Prints one table per batch size."""
    parser = argparse.ArgumentParser(
        "tools.benchmark loss", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--n", type=int, nargs="+", help="batch sizes (4096 8192); with --replicas, pairs per replica (1024)"
    )
    parser.add_argument("--dim", type=int, default=768, help="embedding size (768)")
    parser.add_argument("--rounds", type=int, default=9, help="rounds to measure for each candidate (9)")
    parser.add_argument(
        "--memory-only",
        action="store_true",
        help="measure only the memory of siglip_tf, for batches that are too large for the rivals",
    )
    parser.add_argument(
        "--replicas", type=int, nargs="+", help="measure the memory of one replica for these numbers of replicas"
    )
    parser.add_argument("--only", nargs="*", help="rivals to compare with, or none")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.replicas:
        # jax reads the number of CPU devices when it starts.
        os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={max(arguments.replicas)}"
        os.environ["JAX_PLATFORMS"] = "cpu"
        for n in arguments.n or [1024]:
            _print_replicas(arguments.replicas, n, arguments.dim)
        return
    sizes = arguments.n or [4096, 8192]
    if arguments.child:
        _child(arguments.child, sizes[0], arguments.dim)
        return
    if processor.notice():
        print(processor.notice())
    always = (FLOOR, WHOLE, OURS)
    wanted = [n for n in CANDIDATES if n in always or arguments.only is None or n in arguments.only]
    reasons = {name: _why_not(name) for name in wanted}
    names = [name for name, reason in reasons.items() if reason is None]
    for name, reason in reasons.items():
        if reason:
            print(f"{name} is left out: {reason}")
    for n in sizes:
        print(f"\nn = {n:,}, d = {arguments.dim}, float32, forward and backward")
        if arguments.memory_only:
            print(f"  {OURS}: {measure_memory(OURS, n, arguments.dim):,.0f} MB over the inputs")
            continue
        times, results = measure_times(names, n, arguments.dim, arguments.rounds)
        right = expected(n, arguments.dim)
        print(f"  {'':34} {'median s':>9} {'x floor':>8} {'peak MB':>9} {'error':>8}")
        for name in names:
            ratio = statistics.median(a / b for a, b in zip(times[name], times[FLOOR], strict=True))
            memory = measure_memory(name, n, arguments.dim)
            wrong = "" if name in (FLOOR, WHOLE) else f"{error(results[name], right):8.0e}"
            median = statistics.median(times[name])
            print(f"  {name:34} {median:9.3f} {ratio:8.2f} {memory:9,.0f} {wrong:>8}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
