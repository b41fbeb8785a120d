"""Times a whole training step on CPU in float32, against the towers' matmuls alone and other libraries.

python -m tools.benchmark step [--size B] [--patch 16] [--batch 16] [--text-length 64] [--rounds 5]
TF_ENABLE_ONEDNN_OPTS=0 python -m tools.benchmark step

For every candidate that uses TensorFlow, oneDNN's matmuls are on if they are faster (`siglip_tf.processor`), so that
each candidate runs at its best setting. The second command turns them off.

All candidates take steps in turn in one process, round after round, so that other load on the machine affects all of
them. The bound consists of all matmuls of both towers' blocks, once for the forward pass and twice for the gradients,
without norms, activations, softmax, loss, or optimizer. Every candidate uses the same batch, computes the sigmoid loss
of the whole batch, and makes one AdamW step. The step for KerasHub makes one forward pass, because KerasHub's own
`train_step` makes two. Libraries that are not installed are left out: `pip install 'siglip-tf[bench]'`.
"""

import argparse
import ctypes
import dataclasses
import gc
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np

from siglip_tf import processor
from siglip_tf.models.variants import VARIANTS, TowerSize

OURS = "siglip_tf"
BOUND = "three matmuls"
_LEARNING_RATE = 1e-3


@dataclasses.dataclass(frozen=True)
class Shape:
    """The shape of the model and the batch. Both towers have the same size."""

    size: str
    patch: int
    image_size: int
    batch: int
    text_length: int
    vocab_size: int

    @property
    def tower(self) -> TowerSize:
        return VARIANTS[self.size]

    @property
    def patches(self) -> int:
        return (self.image_size // self.patch) ** 2


def _batch(shape):
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (shape.batch, shape.image_size, shape.image_size, 3)).astype(np.float32)
    return images, rng.integers(0, shape.vocab_size, (shape.batch, shape.text_length)).astype(np.int32)


def _siglip_tf(shape):
    import tensorflow as tf

    import siglip_tf

    model = siglip_tf.SigLIP(
        image=f"{shape.size}/{shape.patch}",
        text=shape.size,
        image_size=shape.image_size,
        text_length=shape.text_length,
        vocab_size=shape.vocab_size,
    )
    model.compile(siglip_tf.optimizers.AdamW(_LEARNING_RATE))
    images, ids = _batch(shape)
    batch = {"image": tf.constant(images), "text": tf.constant(ids)}
    step = tf.function(model.train_step, autograph=False)
    return lambda: float(step(batch)["loss"])


def _bare(shape):
    """Returns the bound. It runs eagerly, because a graph would merge equal products. The overhead is negligible."""
    import tensorflow as tf

    d, hidden, heads = shape.tower.width, shape.tower.mlp_dim, shape.tower.num_heads
    weights = [tf.random.normal((d, d)) for _ in range(4)]
    wide, narrow = tf.random.normal((d, hidden)), tf.random.normal((hidden, d))
    sides = []
    for tokens in (shape.patches, shape.text_length):
        rows = tf.random.normal((shape.batch * tokens, d))
        of_heads = tf.random.normal((shape.batch, heads, tokens, d // heads))
        mixed = tf.random.normal((shape.batch, heads, tokens, tokens))
        sides.append((rows, tf.random.normal((shape.batch * tokens, hidden)), of_heads, mixed))
    pixels = tf.random.normal((shape.batch * shape.patches, 3 * shape.patch**2))
    patch = tf.random.normal((3 * shape.patch**2, d))

    def three(x, w, y):
        tf.matmul(x, w)
        tf.matmul(y, w, transpose_b=True)
        return tf.matmul(x, y, transpose_a=True)

    def run():
        tf.matmul(pixels, patch)
        last = tf.matmul(pixels, sides[0][0], transpose_a=True)  # pixels need no gradient
        for rows, inner, of_heads, mixed in sides:
            for _ in range(shape.tower.depth):
                for w in weights:
                    three(rows, w, rows)
                three(rows, wide, inner)
                three(inner, narrow, rows)
                tf.matmul(of_heads, of_heads, transpose_b=True)
                tf.matmul(mixed, of_heads)
                tf.matmul(mixed, of_heads, transpose_a=True)
                tf.matmul(mixed, of_heads)
                tf.matmul(mixed, of_heads, transpose_a=True)
                last = tf.matmul(of_heads, of_heads, transpose_b=True)
        return float(tf.reshape(last, (-1,))[0])

    return run


def _transformers(shape):
    import torch
    from transformers import SiglipConfig, SiglipModel

    tower = shape.tower
    common = {
        "hidden_size": tower.width,
        "intermediate_size": tower.mlp_dim,
        "num_hidden_layers": tower.depth,
        "num_attention_heads": tower.num_heads,
    }
    text = {**common, "vocab_size": shape.vocab_size, "max_position_embeddings": shape.text_length}
    text |= {"projection_size": tower.width, "bos_token_id": None, "eos_token_id": 1, "pad_token_id": 1}
    config = SiglipConfig(
        text_config=text,
        vision_config={**common, "image_size": shape.image_size, "patch_size": shape.patch},
    )
    model = SiglipModel(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), _LEARNING_RATE)
    images, ids = _batch(shape)
    pixels, ids = torch.tensor(images).permute(0, 3, 1, 2).contiguous(), torch.tensor(ids, dtype=torch.long)

    def run():
        loss = model(input_ids=ids, pixel_values=pixels, return_loss=True).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return run


def _keras_hub(shape):
    import keras
    import keras_hub
    import tensorflow as tf
    from keras_hub.src.models.siglip.siglip_loss import SigLIPLoss

    tower = shape.tower
    common = {
        "hidden_dim": tower.width,
        "num_layers": tower.depth,
        "num_heads": tower.num_heads,
        "intermediate_dim": tower.mlp_dim,
    }
    side = shape.image_size
    vision = keras_hub.models.SigLIPVisionEncoder(patch_size=shape.patch, image_shape=(side, side, 3), **common)
    text = keras_hub.models.SigLIPTextEncoder(
        vocabulary_size=shape.vocab_size,
        embedding_dim=tower.width,
        max_sequence_length=shape.text_length,
        projection_dim=tower.width,
        **common,
    )
    model = keras_hub.models.SigLIPBackbone(vision_encoder=vision, text_encoder=text)
    optimizer = keras.optimizers.AdamW(_LEARNING_RATE)
    optimizer.build(model.trainable_variables)
    images, ids = _batch(shape)
    batch = {"images": tf.constant(images), "token_ids": tf.constant(ids)}
    loss_function = SigLIPLoss()

    @tf.function(autograph=False)
    def step():
        with tf.GradientTape() as tape:
            logits = model(batch, training=True)["text_logits"]
            loss = loss_function(2 * tf.eye(shape.batch) - 1, logits)
        variables = model.trainable_variables
        gradients = tape.gradient(loss, [v.value for v in variables])
        optimizer.apply([tf.convert_to_tensor(g) for g in gradients], variables)
        return loss

    return lambda: float(step())


CANDIDATES: dict[str, Callable[[Shape], Callable[[], float]]] = {
    BOUND: _bare,
    OURS: _siglip_tf,
    "transformers + torch": _transformers,
    "KerasHub": _keras_hub,
}
_NEEDS = {"transformers + torch": ("transformers", "torch"), "KerasHub": ("keras_hub",)}


def measure(names: list[str], shape: Shape, rounds: int) -> dict[str, list[float]]:
    """Returns the seconds of each candidate's step in each round. The first step of each is not counted."""
    functions = {name: CANDIDATES[name](shape) for name in names}
    times: dict[str, list[float]] = {name: [] for name in names}
    for round_number in range(rounds + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            seconds = time.perf_counter() - start
            if round_number:
                times[name].append(seconds)
            _give_memory_back()
            line = f"  round {round_number}/{rounds}, {name}: {seconds:.2f} s"
            ends = ("\r\033[K", "") if sys.stderr.isatty() else ("", "\n")
            print(f"{ends[0]}{line}", end=ends[1], file=sys.stderr, flush=True)
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)
    return times


def _give_memory_back() -> None:
    """Returns freed memory to the system, so that several models fit into one process."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


def table(times: dict[str, list[float]], batch: int) -> str:
    """Returns a table of median times, with each candidate's fraction of the bound as the median over rounds."""
    lines = [f"  {'':22} {'median s':>9} {'images/s':>9} {'of the bound':>13} {'ours is':>9}"]
    for name, seconds in times.items():
        median = statistics.median(seconds)
        share = statistics.median(b / s for b, s in zip(times[BOUND], seconds, strict=True))
        faster = statistics.median(s / o for o, s in zip(times[OURS], seconds, strict=True))
        lines.append(f"  {name:22} {median:9.3f} {batch / median:9.2f} {share:13.1%} {faster:8.2f}x")
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    """Runs the benchmark and prints one table."""
    parser = argparse.ArgumentParser(
        "tools.benchmark step", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", default="B", choices=list(VARIANTS), metavar="SIZE", help="size of both towers (B)")
    parser.add_argument("--patch", type=int, default=16, help="side of a patch in pixels (16)")
    parser.add_argument("--image-size", type=int, default=224, help="side of an image in pixels (224)")
    parser.add_argument("--batch", type=int, default=16, help="pairs per step (16)")
    parser.add_argument("--text-length", type=int, default=64, help="tokens per text (64)")
    parser.add_argument("--vocab-size", type=int, default=32_000, help="vocabulary size (32,000)")
    parser.add_argument("--rounds", type=int, default=5, help="measured steps of each candidate (5)")
    parser.add_argument("--only", nargs="*", help="rivals to compare with, or none")
    options = parser.parse_args(argv)
    shape = Shape(
        options.size, options.patch, options.image_size, options.batch, options.text_length, options.vocab_size
    )
    wanted = [name for name in CANDIDATES if name in (BOUND, OURS) or options.only is None or name in options.only]
    names = [name for name in wanted if all(importlib.util.find_spec(p) for p in _NEEDS.get(name, ()))]
    for name in [name for name in wanted if name not in names]:
        print(f"{name} is left out: not installed (see --help)")
    if processor.notice():
        print(processor.notice())
    side = options.image_size
    print(
        f"{options.size}/{options.patch}, images of {side} x {side}, batch {options.batch}, "
        f"{options.text_length} tokens, float32 on CPU, {options.rounds} rounds"
    )
    print(table(measure(names, shape, options.rounds), options.batch))


if __name__ == "__main__":
    main(sys.argv[1:])
