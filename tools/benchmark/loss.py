"""Forward and backward of the sigmoid loss: time beside three bare matmuls and rivals, and peak memory.

python -m tools.benchmark loss [--n 4096 8192] [--dim 768] [--rounds 9]
python -m tools.benchmark loss --memory-only --n 65536

All candidates are timed in turn in one process, round after round, so that what else the machine does hits all of them;
memory is the growth of the resident peak of a fresh process, over inputs and libraries. Rivals that are not installed
are named and left out: `pip install 'siglip-tf[bench]'`, and `pip install --no-deps open_clip_torch`.
"""

import argparse
import importlib.util
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

OURS = "siglip_tf"
BOUND = "3 bare matmuls"


def _inputs(n, dim):
    rng = np.random.default_rng(0)
    sides = rng.standard_normal((2, n, dim), np.float32)
    return [side / np.linalg.norm(side, axis=1, keepdims=True) for side in sides]


def _siglip_tf(n, dim):
    import tensorflow as tf

    from siglip_tf import losses

    @tf.function(autograph=False)
    def step(*inputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            loss = losses.sigmoid_loss(*inputs)
        return loss, tape.gradient(loss, inputs)

    return _on_tensors(step, n, dim)


def _bare(n, dim):
    import tensorflow as tf

    @tf.function(autograph=False)
    def step(x, y, *_):
        logits = tf.matmul(x, y, transpose_b=True)
        return tf.matmul(logits, y), tf.matmul(logits, x, transpose_a=True)

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
            return loss, tape.gradient(loss, inputs)

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
            loss = loss_function(tf.eye(n), tf.matmul(x, y, transpose_b=True) * tf.exp(t) + b)
        return loss, tape.gradient(loss, inputs)

    return _on_tensors(step, n, dim)


def _open_clip(n, dim):
    import torch

    # The package's __init__ wants torchvision; the loss wants torch alone.
    folder = importlib.util.find_spec("open_clip").submodule_search_locations[0]
    spec = importlib.util.spec_from_file_location("open_clip_loss", os.path.join(folder, "loss.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    loss_function = module.SigLipLoss()
    x, y = (torch.tensor(side, requires_grad=True) for side in _inputs(n, dim))
    t, b = torch.tensor(math.log(10), requires_grad=True), torch.tensor(-10.0, requires_grad=True)

    def run():
        for leaf in (x, y, t, b):
            leaf.grad = None
        loss_function(x, y, t.exp(), b).backward()

    return run


def _on_tensors(step, n, dim):
    import tensorflow as tf

    inputs = [*map(tf.constant, _inputs(n, dim)), tf.constant(math.log(10)), tf.constant(-10.0)]

    def run():
        step(*inputs)[0].numpy()

    return run


CANDIDATES: dict[str, Callable[[int, int], Callable[[], None]]] = {
    BOUND: _bare,
    OURS: _siglip_tf,
    "Algorithm 1, autodiff": _algorithm_1(False),
    "Algorithm 1, autodiff, XLA": _algorithm_1(True),
    "KerasHub": _keras_hub,
    "open_clip (torch)": _open_clip,
}


def measure_times(names: list[str], n: int, dim: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of each round of each candidate, taken in turn."""
    functions = {name: CANDIDATES[name](n, dim) for name in names}
    times = {name: [] for name in names}
    for round_number in range(rounds + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if round_number:  # the first one traces
                times[name].append(time.perf_counter() - start)
            print(f"\r  n={n}: round {round_number}/{rounds}, {name:30}", end="", file=sys.stderr, flush=True)
    print(f"\r{'':70}\r", end="", file=sys.stderr)
    return times


def measure_memory(name: str, n: int, dim: int) -> float:
    """Peak MB of one forward and backward in a fresh process, over what inputs and libraries take."""
    command = [sys.executable, "-m", __package__, "loss", "--child", name, "--n", str(n), "--dim", str(dim)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def _child(name, n, dim):
    CANDIDATES[name](64, dim)()  # threads and libraries are there before the count begins
    run = CANDIDATES[name](n, dim)
    # The peak that the kernel reports otherwise includes what the parent held before this process became its own.
    Path("/proc/self/clear_refs").write_text("5")
    before = _peak_megabytes()
    run()
    print(_peak_megabytes() - before)


def _peak_megabytes():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def _installed(name):
    needed = {"KerasHub": ("keras_hub",), "open_clip (torch)": ("open_clip", "torch")}
    return all(importlib.util.find_spec(package) for package in needed.get(name, ()))


def main(argv: list[str]) -> None:
    """Prints one table a batch size."""
    parser = argparse.ArgumentParser("tools.benchmark loss", description=__doc__.split("\n")[0])
    parser.add_argument("--n", type=int, nargs="+", default=[4096, 8192], help="batch sizes")
    parser.add_argument("--dim", type=int, default=768, help="size of an embedding")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--memory-only", action="store_true", help="only ours, only memory: for batches without rivals")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.child:
        _child(arguments.child, arguments.n[0], arguments.dim)
        return
    names = [name for name in CANDIDATES if _installed(name)]
    for name in set(CANDIDATES) - set(names):
        print(f"{name} is left out: not installed (see --help)")
    for n in arguments.n:
        print(f"\nn = {n:,}, d = {arguments.dim}, float32, forward and backward")
        if arguments.memory_only:
            print(f"  {OURS}: {measure_memory(OURS, n, arguments.dim):,.0f} MB over the inputs")
            continue
        times = measure_times(names, n, arguments.dim, arguments.rounds)
        print(f"  {'':30} {'median s':>9} {'x matmuls':>10} {'peak MB':>9}")
        for name in names:
            ratio = statistics.median(a / b for a, b in zip(times[name], times[BOUND], strict=True))
            memory = measure_memory(name, n, arguments.dim)
            print(f"  {name:30} {statistics.median(times[name]):9.3f} {ratio:10.2f} {memory:9,.0f}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
