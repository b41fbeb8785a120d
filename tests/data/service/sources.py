"""Training data of every kind for input processes and their coordinators, and a process that serves shares of them."""

import sys
from pathlib import Path

import tensorflow as tf

from siglip_tf.data.embeddings.pipeline import EmbeddingData
from siglip_tf.data.embeddings.stored import StoredEmbeddings
from siglip_tf.data.order.mixture import Mixture
from siglip_tf.data.pipeline import TrainingData
from siglip_tf.data.service import InputServer
from siglip_tf.data.sources.opening import open_source
from tests.data.memory_source import MemorySource, tiny_preprocessing

BATCH = 24
BROKEN = {5: {"image": b"no image"}, 17: {"image": b""}, 30: {"captions": []}}
# What is in memory; the others are in a folder.
IN_MEMORY = ("memory", "runs", "mixture")
KINDS = (*IN_MEMORY, "tar", "folder", "embeddings")


def training_data(kind: str, folder: Path, **options):
    """The data of a kind; of those on disk `folder` holds one folder each."""
    if kind == "embeddings":
        return EmbeddingData(StoredEmbeddings(folder / kind), BATCH, **options)
    return TrainingData(_source(kind, folder), tiny_preprocessing(), BATCH, **{"bad_record_limit": 0.5, **options})


def _source(kind: str, folder: Path):
    if kind == "runs":
        return MemorySource(470, BROKEN, runs=[0, 70, 200, 210, 400, 470])
    if kind == "mixture":
        return Mixture([MemorySource(470, BROKEN), MemorySource(90, name="other")], [0.7, 0.3])
    if kind == "memory":
        return MemorySource(470, BROKEN)
    return open_source(str(folder / kind))


def main(folder: str, shares: str, count: str, port: str, *kinds: str) -> None:
    """Serves shares ("0" or "0,1") of each kind, at a port or at free ones (0); prints the ports."""
    # As in conftest.py: the graph optimizer takes longer than the few batches of the tests.
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    servers = [
        InputServer(training_data(kind, Path(folder)), int(index), int(count), int(port))
        for index in shares.split(",")
        for kind in kinds
    ]
    print("ports", *(server.port for server in servers), flush=True)
    servers[0].wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
