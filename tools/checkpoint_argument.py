"""The checkpoint on a tool's command line, and the model that it names."""

import argparse
from typing import Any

import siglip_tf
from siglip_tf.checkpoints import RESIZES


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """Adds CHECKPOINT as the next positional argument, and the options that change how it is read."""
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a checkpoint that SigLIP.from_checkpoint reads")
    parser.add_argument(
        "--image-size", type=int, metavar="PIXELS", help="use this resolution instead of the checkpoint's"
    )
    parser.add_argument("--tokenizer", metavar="FILE", help="SentencePiece model, for formats without one (npz)")
    parser.add_argument("--resize", choices=RESIZES, help="how to resize images, instead of the checkpoint's way")


def load_model(options: argparse.Namespace, **more: Any) -> siglip_tf.SigLIP:
    """Returns the model that the options of `add_checkpoint` name. `more` is passed to `SigLIP.from_checkpoint`.

    Raises:
        FileNotFoundError: if the checkpoint does not exist.
        ValueError: if the checkpoint cannot be read.
    """
    return siglip_tf.SigLIP.from_checkpoint(
        options.checkpoint,
        image_size=options.image_size,
        tokenizer=options.tokenizer,
        resize=options.resize,
        **more,
    )
