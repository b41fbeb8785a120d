"""Cells that look at the loss alone: its value at the start, and the memory that its implementations take.

python -m recipes.studies.loss_probe "sigmoid, tiled" 256 1024       bytes at a batch of 1,024
"""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

MIB = 2**20


def initial_losses(settings: Mapping[str, Any], _folder: Path, _root: Path) -> dict[str, Any]:
    """Returns the loss where every cosine is 0.

    Args:
        settings: "cases": pairs of a bias and a batch size. At cosine 0 the temperature does not matter.

    Returns:
        "losses": nats a pair, in the order of the cases.
    """
    import tensorflow as tf

    from siglip_tf.distribution import current_ring
    from siglip_tf.losses import sigmoid_loss_and_gradients

    @tf.function(autograph=False)
    def loss(images, texts, bias):
        t = tf.constant(math.log(10.0))
        return sigmoid_loss_and_gradients(current_ring(), images, texts, t, bias, gradients=False).loss

    losses = []
    for bias, n in settings["cases"]:
        images, texts = (tf.repeat(tf.constant([side], tf.float32), n, 0) for side in ([1, 0], [0, 1]))
        losses.append(float(loss(images, texts, tf.constant(bias, tf.float32))))
    return {"losses": losses}


def peak_bytes(settings: Mapping[str, Any], _folder: Path, _root: Path) -> dict[str, Any]:
    """What loss and gradients take beside their inputs, each size measured in a process of its own: what a larger batch
    finds in the allocator is not asked of the system again.

    Args:
        settings: "implementation" in `IMPLEMENTATIONS`, "dim", "sizes".

    Returns:
        "bytes": in the order of the sizes.

    Raises:
        RuntimeError: the process failed; its error is shown.
    """
    implementation, dim = settings["implementation"], settings["dim"]
    return {"bytes": [_in_a_process(implementation, dim, n) for n in settings["sizes"]]}


def _in_a_process(implementation, dim, n):
    command = [sys.executable, "-m", f"{__package__}.loss_probe", implementation, str(dim), str(n)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    if done.returncode:
        raise RuntimeError(f"Measuring {implementation} failed:\n{done.stderr[-2000:]}")
    return int(done.stdout.splitlines()[-1])


def _algorithm_1(images, texts):
    """The paper's pseudocode, word for word: the whole matrix, and autodiff through it."""
    import tensorflow as tf

    n = images.shape[0]
    logits = tf.matmul(images, texts, transpose_b=True) * 10.0 - 10.0
    labels = 2 * tf.eye(n) - tf.ones((n, n))
    return -tf.reduce_sum(tf.math.log_sigmoid(labels * logits)) / n


def _softmax(images, texts):
    """The usual form: the whole matrix, two cross-entropies."""
    import tensorflow as tf

    logits = tf.matmul(images, texts, transpose_b=True) * 10.0
    labels = tf.range(images.shape[0])
    both = [
        tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=side)
        for side in (logits, tf.transpose(logits))
    ]
    return 0.5 * (tf.reduce_mean(both[0]) + tf.reduce_mean(both[1]))


def _tiled_sigmoid(images, texts):
    from siglip_tf.losses import sigmoid_loss

    return sigmoid_loss(images, texts, math.log(10.0), -10.0)


def _tiled_softmax(images, texts):
    from siglip_tf.losses import softmax_loss

    return softmax_loss(images, texts, math.log(10.0))


IMPLEMENTATIONS: dict[str, Callable] = {
    "softmax, whole matrix": _softmax,
    "sigmoid, whole matrix": _algorithm_1,
    "softmax, tiled": _tiled_softmax,
    "sigmoid, tiled": _tiled_sigmoid,
}


def _measure(implementation: str, dim: int, size: int) -> int:
    """Returns how many bytes the peak of resident memory grows during a step."""
    import tensorflow as tf

    loss_of = IMPLEMENTATIONS[implementation]

    def step(images, texts):
        with tf.GradientTape() as tape:
            tape.watch((images, texts))
            loss = loss_of(images, texts)
        return loss, tape.gradient(loss, (images, texts))

    def run(n):
        sides = [tf.math.l2_normalize(tf.random.stateless_normal((n, dim), (n, side)), 1) for side in range(2)]
        before = _status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        tf.function(step, autograph=False)(*sides)
        return _status("VmHWM") - before

    run(64)  # libraries that are loaded at first use
    return run(size)


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def main(arguments: Sequence[str]) -> int:
    """Prints the bytes."""
    implementation, dim, size = arguments
    print(_measure(implementation, int(dim), int(size)))
    return 0


def memory_summary(result: Mapping[str, Any]) -> str:
    """Returns the figure of the largest size, for the progress line."""
    return f"{result['bytes'][-1] / MIB:,.0f} MiB"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
