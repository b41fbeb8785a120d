"""Prepares a folder that measures this project's loss and training step on an accelerator that has jax alone.

python -m tools.benchmark accelerator FOLDER                     here, on a CPU: lowers the programs into FOLDER
python FOLDER/run.py                                             there: checks, times, rivals

The programs are the StableHLO of one replica's step as XLA for a GPU gets it, with cuDNN's attention. FOLDER/run.py
hands them to jax's own client and needs no TensorFlow. Try it here first, smaller: --n 256 --pairs 4 --attention einsum
--size mu --patch 8 --image-size 16 --text-length 5 --vocab-size 40.
"""

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
import tensorflow as tf

import siglip_tf
from siglip_tf import losses, optimizers, tpu
from siglip_tf.distribution import current_ring
from siglip_tf.models.transformer import ATTENTIONS
from siglip_tf.models.variants import VARIANTS
from siglip_tf.primitives.compilation import compiling_for

_CARD = Path(__file__).parent / "card"


def loss_program(n: int, dim: int, precision: str, tile_size: int | None = None) -> tpu.ReplicaProgram:
    """The sigmoid loss of n pairs and its gradients in images, texts, log temperature and bias."""

    def step(batch):
        with compiling_for("GPU"):
            result = losses.sigmoid_loss_and_gradients(
                current_ring(),
                batch["images"],
                batch["texts"],
                batch["log_temperature"],
                batch["bias"],
                tile_size,
                precision=precision,
            )
        return [result.loss, *result.gradients()]

    side, scalar = tf.TensorSpec((n, dim)), tf.TensorSpec(())
    batch = {"images": side, "texts": side, "log_temperature": scalar, "bias": scalar}
    return tpu.trace_step(step, batch, tpu.made_up_tpu_strategy(1), [])


def step_program(pairs: int, attention: str, options: argparse.Namespace) -> tpu.ReplicaProgram:
    """One AdamW step of a whole model in mixed_bfloat16."""

    def recipe():
        model = siglip_tf.SigLIP(
            image=f"{options.size}/{options.patch}",
            text=options.size,
            image_size=options.image_size,
            text_length=options.text_length,
            vocab_size=options.vocab_size,
            dtype="mixed_bfloat16",
            attention=attention,
            name="siglip",
        )
        model.compile(optimizers.AdamW(1e-3, name="optimizer"))
        image = tf.TensorSpec((options.image_size, options.image_size, 3))
        return tpu.Subject(model, {"image": image, "text": tf.TensorSpec((options.text_length,), tf.int32)})

    with compiling_for("GPU"):
        return tpu.trace_recipe(recipe, 1, pairs)[0]


def _described(program, options):
    arguments = [
        {
            "name": argument.name,
            "kind": argument.kind,
            "shape": list(argument.shape),
            "dtype": np.dtype(argument.dtype.as_numpy_dtype).name,
            "result": argument.result,
            "below": options.vocab_size,
        }
        for argument in program.arguments
    ]
    return {"arguments": arguments, "results": [{"name": r.name, "kind": r.kind} for r in program.results]}


def prepare(options: argparse.Namespace) -> None:
    """Writes the programs, a manifest, and the files of `card` into the folder."""
    folder = Path(options.folder)
    folder.mkdir(parents=True, exist_ok=True)
    manifest: list[dict] = []

    def add(program, name, **entry):
        file = f"{entry['kind']}_{len(manifest)}.mlir"
        (folder / file).write_text(tpu.lower(program))
        manifest.append({"name": name, "file": file, **entry, **_described(program, options)})
        print(f"{file}: {name}, {entry['kind']} of {entry['n']:,} pairs", flush=True)

    for n in options.n:
        for precision in losses.PRECISIONS:
            for tile in options.tiles:
                program = loss_program(n, options.dim, precision, min(tile, n))
                add(program, f"siglip_tf, {precision}, tile {min(tile, n)}", kind="loss", n=n, dim=options.dim)
    tower = VARIANTS[options.size]
    shape = {"width": tower.width, "mlp_dim": tower.mlp_dim, "depth": tower.depth, "heads": tower.num_heads}
    shape |= {key: getattr(options, key) for key in ("patch", "image_size", "text_length", "vocab_size")}
    for pairs in options.pairs:
        for attention in options.attention:
            program = step_program(pairs, attention, options)
            name = f"siglip_tf, mixed_bfloat16, {'cuDNN' if attention == 'fused' else 'plain'} attention"
            add(program, name, kind="step", n=pairs, shape=shape)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    for file in _CARD.glob("*.py"):
        shutil.copy(file, folder)
    print(f"Copy {folder} to the machine with the accelerator and run: python {folder.name}/run.py")


def main(argv: list[str]) -> None:
    """Prepares the folder that `argv` names."""
    parser = argparse.ArgumentParser(
        "tools.benchmark accelerator", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder")
    parser.add_argument("--n", type=int, nargs="*", default=[8192, 65536, 262144], help="batches of the loss")
    parser.add_argument("--dim", type=int, default=768, help="size of an embedding (768)")
    parser.add_argument("--tiles", type=int, nargs="+", default=[4096, 8192], help="tile sizes of the loss")
    parser.add_argument("--pairs", type=int, nargs="*", default=[64, 128, 256, 512], help="batches of the step")
    parser.add_argument(
        "--attention", nargs="+", default=["fused"], choices=ATTENTIONS, help="of the step: cuDNN's (fused), einsum"
    )
    parser.add_argument("--size", default="B", choices=list(VARIANTS), metavar="SIZE", help="of both towers (B)")
    parser.add_argument("--patch", type=int, default=16, help="pixels of a patch's side (16)")
    parser.add_argument("--image-size", type=int, default=224, help="pixels of an image's side (224)")
    parser.add_argument("--text-length", type=int, default=64, help="tokens of a text (64)")
    parser.add_argument("--vocab-size", type=int, default=32_000, help="token ids (32,000)")
    prepare(parser.parse_args(argv))
