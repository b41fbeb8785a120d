"""Converts a checkpoint to another format.

    python -m tools.convert SRC DST --to {native,big_vision,hugging_face,keras_hub}

SRC is a big_vision or AugReg npz file, a Hugging Face folder or safetensors file, a KerasHub preset folder, or a folder
of this project. Its format is recognized by its content. Without `--to`, it is only described. For example:

    python -m tools.convert webli_en_b16_224_63724782.npz siglip_b16 --to native --tokenizer sentencepiece.model
    python -m tools.convert siglip_b16 siglip_b16_hf --to hugging_face
    python -m tools.convert siglip_b16 siglip_b16_384 --to native --image-size 384

The result is read back and compared array by array. If transformers or KerasHub is installed and the result is for it,
its token ids, pixels, embeddings, and logits of sample pictures and texts are compared with this project's.
"""

import argparse
import re
import sys
import time
from pathlib import Path

import numpy as np

from siglip_tf import checkpoints
from siglip_tf.checkpoints import Checkpoint

from .command import command_parser, exit_status
from .convert_answers import compare_answers


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    parser = command_parser("convert", __doc__)
    parser.add_argument("source", metavar="SRC", help="checkpoint to read")
    parser.add_argument("destination", metavar="DST", nargs="?", help="folder to write (a file for big_vision)")
    parser.add_argument("--to", choices=checkpoints.FORMATS, help="format to write")
    parser.add_argument(
        "--image-size", type=int, metavar="PIXELS", help="resample the position embeddings for images of this side"
    )
    parser.add_argument("--tokenizer", metavar="FILE", help="SentencePiece model to put into the checkpoint")
    parser.add_argument("--resize", choices=checkpoints.RESIZES, help="how to resize images, instead of SRC's way")
    parser.add_argument("--no-check", action="store_true", help="do not read the result back and compare its answers")
    options = parser.parse_args(arguments)
    if (options.destination is None) != (options.to is None):
        parser.error("DST and --to go together")
    return exit_status(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    started = time.monotonic()
    print(f"Reading {options.source} ...", flush=True)
    checkpoint = checkpoints.read(options.source, tokenizer=options.tokenizer, resize=options.resize)
    if options.image_size is not None:
        checkpoint = checkpoints.with_image_size(checkpoint, options.image_size)
    print(checkpoints.describe(checkpoint), flush=True)
    if options.to is None:
        return
    print(f"\nWriting {options.destination} as {options.to} ...", flush=True)
    notes = checkpoints.write(options.destination, checkpoint, format=options.to)
    for ours, theirs in _examples_of_names(checkpoint, options.to):
        print(f"  {ours:<40} as {theirs}")
    for name, size in _sizes(Path(options.destination)):
        print(f"  {size:>15,} bytes  {name}")
    for note in notes:
        print(f"note: {note}")
    if not options.no_check:
        print(_compare(checkpoint, checkpoints.read(options.destination)))
        for line in compare_answers(checkpoint, Path(options.destination), options.to):
            print(line)
    print(f"Done in {time.monotonic() - started:.1f} s.")


def _examples_of_names(checkpoint: Checkpoint, format: str) -> list[tuple[str, str]]:
    """Returns the name in this project and in the file for one weight of every part, if the names differ."""
    parts: dict[str, tuple[str, str]] = {}
    for name in checkpoint.weights:
        part = re.sub(r"block_\d+", "block", name).rsplit("/", 1)[0]
        parts.setdefault(part, (name, checkpoints.foreign_name(name, format)))
    return [pair for pair in parts.values() if pair[0] != pair[1]]


def _sizes(path: Path) -> list[tuple[str, int]]:
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    return [(str(file if path.is_file() else file.relative_to(path)), file.stat().st_size) for file in files]


def _compare(wanted: Checkpoint, found: Checkpoint) -> str:
    """Compares a checkpoint with the result that was read back, array by array."""
    shared = [name for name in wanted.weights if name in found.weights]
    changed = [n for n in shared if not np.array_equal(wanted.weights[n], found.weights[n], equal_nan=True)]
    lines = [f"Read back: {len(shared) - len(changed)} of {len(wanted.weights)} arrays are equal to the last bit."]
    for title, names in (
        ("multiplied out or changed", changed),
        ("not in this format", [name for name in wanted.weights if name not in found.weights]),
        ("added for this format", [name for name in found.weights if name not in wanted.weights]),
    ):
        if names:
            lines.append(f"  {title}: {', '.join(names)}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
