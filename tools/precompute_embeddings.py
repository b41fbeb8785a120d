"""Runs a frozen image tower once over a data set, and stores its embeddings for SigLiT.

    python -m tools.precompute_embeddings CHECKPOINT SOURCE FOLDER [--dtype float16]

It uses all local devices. After an interruption, the same command continues at the first missing shard. To use several
machines, run it on each with `--worker I --workers N` and a FOLDER that all of them can write to. For example:

    python -m tools.precompute_embeddings augreg_b16 "shards/{00000..00331}.tar" embeddings/cc3m --text-length 16
    python -m tools.precompute_embeddings siglip_b16 tfds:coco_captions embeddings/coco --split train

Train on them with `siglip_tf.data.EmbeddingData(StoredEmbeddings(FOLDER), global_batch)`.
"""

import argparse
import os
import sys
from collections.abc import Callable

# TensorFlow reads this variable when it is imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf

import siglip_tf
from siglip_tf import checkpoints
from siglip_tf.data import EmbeddingWriter, Preprocessing, Tokenizer, tower_fingerprint
from siglip_tf.data.embeddings.stored import DTYPES
from siglip_tf.data.embeddings.writer import Progress
from siglip_tf.data.sources.base import Source
from siglip_tf.distribution import local_strategy

from .checkpoint_argument import add_checkpoint, load_model
from .command import command_parser, exit_status
from .progress_line import ProgressLine, clock
from .source_argument import add_source, named_source


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    arguments = command_parser("precompute_embeddings", __doc__)
    add_checkpoint(arguments)
    add_source(arguments)
    arguments.add_argument("folder", metavar="FOLDER", help="folder to write the embeddings to")
    arguments.add_argument("--records", type=int, help="how many scenes to draw, with the source 'synthetic'")
    arguments.add_argument("--text-length", type=int, metavar="N", help="tokens per text (default: the checkpoint's)")
    arguments.add_argument(
        "--dtype", choices=sorted(DTYPES), default="float16", help="type of the stored embeddings (%(default)s)"
    )
    arguments.add_argument("--batch-size", type=int, default=64, help="images per step and device (%(default)s)")
    arguments.add_argument("--shard-records", type=int, default=16_384, help="records per shard (%(default)s)")
    arguments.add_argument("--worker", type=int, default=0, help="number of this machine, from 0 (%(default)s)")
    arguments.add_argument(
        "--workers", type=int, default=1, help="number of machines that share the work (%(default)s)"
    )
    arguments.add_argument(
        "--bad-record-limit", type=float, default=0.01, help="share of records that may be broken (%(default)s)"
    )
    return arguments


def encoder(model: siglip_tf.SigLIP, strategy: tf.distribute.Strategy) -> Callable[[tf.Tensor], np.ndarray]:
    """Returns an `encode` function for `EmbeddingWriter`, which splits a batch among the strategy's devices.

    Args:
        model: a model that was created under the strategy's scope.
        strategy: the strategy. Its number of replicas must divide every batch.

    Returns:
        A function of uint8 pixels (batch, size, size, 3) that returns float32 embeddings (batch, embed_dim).
    """

    @tf.function(autograph=False)
    def step(pixels: tf.Tensor) -> tf.Tensor:
        return strategy.run(model.encode_image, (pixels,))

    def encode(pixels: tf.Tensor) -> np.ndarray:
        parts = tf.split(pixels, strategy.num_replicas_in_sync)
        shared = strategy.experimental_distribute_values_from_function(
            lambda context: parts[context.replica_id_in_sync_group]
        )
        return np.concatenate([part.numpy() for part in strategy.experimental_local_results(step(shared))])

    return encode


def _said(progress: Progress) -> str:
    return (
        f"{progress.done:,} of {progress.total:,} images, {progress.images_per_second:,.0f} a second, "
        f"{clock(progress.seconds_left)} left"
    )


def _model(options: argparse.Namespace) -> siglip_tf.SigLIP:
    towers = checkpoints.read(options.checkpoint, options.tokenizer).towers
    # The text tower is not used, so a missing one is replaced with the smallest one.
    lacking = {} if "text" in towers else {"text": "mu", "text_length": options.text_length or 1, "vocab_size": 8}
    return load_model(options, **lacking)


def _preprocessing(model: siglip_tf.SigLIP, options: argparse.Namespace) -> Preprocessing:
    owned = model.preprocessing
    if owned is None or owned.image is None:
        raise ValueError(f"{options.checkpoint} does not say how images are prepared.")
    proto, config = None, {"length": options.text_length}
    if owned.text is not None:
        proto, config = owned.text.model_proto, owned.text.get_config()
        config["length"] = options.text_length or config["length"]
    if options.tokenizer is not None:
        with tf.io.gfile.GFile(options.tokenizer, "rb") as file:
            proto = file.read()
    if proto is None or config["length"] is None:
        raise ValueError(
            f"{options.checkpoint} does not say how texts become tokens: name a --tokenizer and its --text-length."
        )
    return Preprocessing(owned.image, Tokenizer(proto, **config))


def _source(options: argparse.Namespace) -> Source:
    endless = options.source in ("synthetic", "scenes")
    if endless != (options.records is not None):
        raise ValueError(
            "--records says how many scenes to draw: give it with the source 'synthetic', and with no other."
        )
    return named_source(options, **({"size": options.records} if endless else {}))


def _run(options: argparse.Namespace) -> None:
    source = _source(options)
    strategy = local_strategy(cpus=True)
    replicas = strategy.num_replicas_in_sync
    with strategy.scope():
        model = _model(options)
    if model.max_patches is not None:
        raise ValueError(
            f"Expected a checkpoint of a fixed resolution. Received: {options.checkpoint}, a NaFlex model. Its "
            "embeddings of a folder are what python -m tools.search index stores."
        )
    preprocessing = _preprocessing(model, options)
    tower = {name: weight for name, weight in model.named_weights().items() if name.startswith("image/")}
    writer = EmbeddingWriter(
        options.folder,
        source,
        preprocessing,
        encoder(model, strategy),
        tower=tower_fingerprint(tower),
        embed_dim=model.embed_dim,
        dtype=options.dtype,
        batch_size=options.batch_size * replicas,
        shard_records=options.shard_records,
        worker=options.worker,
        workers=options.workers,
        bad_record_limit=options.bad_record_limit,
        report=options.report,
    )
    print(f"{source.name}: {source.size:,} records; {len(writer.missing())} shards to do on {replicas} device(s)")
    line = ProgressLine(log_seconds=30)
    stored = writer.run(lambda progress: line.say(_said(progress), last=progress.done == progress.total))
    if stored is None:
        print(f"This worker's shards are done; {options.folder} is complete once the other workers' are.")
        return
    counts = stored.manifest["counts"]
    skipped = ", ".join(f"{count:,} {cause}" for cause, count in counts["skipped"].items()) or "none"
    print(
        f"{options.folder}: {counts['images']:,} images, {counts['texts']:,} texts, {options.dtype}; skipped: {skipped}"
    )


def main(argv: list[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    options = parser().parse_args(argv)
    return exit_status(lambda: _run(options), fault=2, prefix="error: ")


if __name__ == "__main__":
    sys.exit(main())
