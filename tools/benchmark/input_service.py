"""Compares the speed of a training pipeline through the input service with the same pipeline in this process.

An input process serves the pipeline, and this process receives it, as a TPU host's runtime does. Both candidates use
the same data and are timed in turn. A ratio is the median of the rounds' ratios. The input process uses the same cores
as the local pipeline.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

_BATCH = 64
_SIZE = 224
# More batches than the service keeps ready.
_AHEAD = 12


def data_of(folder: str):
    """Returns the pictures and captions of the tar shards in a folder, as recipes read them."""
    from siglip_tf.data import ImagePreprocessing, Preprocessing, Tokenizer
    from siglip_tf.data.pipeline import TrainingData
    from siglip_tf.data.sources.shards.tar import TarSource
    from siglip_tf.data.text.training import train_tokenizer

    captions = [f"a photo of thing {i}" for i in range(200)]
    preprocessing = Preprocessing(ImagePreprocessing(_SIZE), Tokenizer(train_tokenizer(captions, 100), length=16))
    return TrainingData(TarSource(f"{folder}/*.tar", verbose=False), preprocessing, _BATCH)


@contextlib.contextmanager
def candidates(images: list[bytes], folder: Path, cores: int) -> Iterator[list]:
    """Yields the candidates for `tools.benchmark.data`: the local pipeline, and the same one in an input process."""
    import tensorflow as tf

    from siglip_tf.data.service import ServedData

    from .data import Candidate, write_tar

    write_tar(folder / "00000.tar", images)
    limits = tf.data.Options()
    limits.threading.private_threadpool_size = cores
    command = [sys.executable, "-m", __name__, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            port = next(line.split()[1] for line in process.stdout if line.startswith("port "))
            data = ServedData(data_of(str(folder)), [f"localhost:{port}"])
            with data.guard():
                local = data_of(str(folder)).dataset().with_options(limits)
                yield [
                    Candidate("this process", iter(local), _BATCH, _AHEAD),
                    Candidate("an input process, by tf.data service", iter(data.dataset()), _BATCH, _AHEAD),
                ]
        finally:
            process.kill()


def main(argv: list[str] | None = None) -> None:
    """Runs this section of `tools.benchmark data`."""
    from . import data

    data.main(["--only", "service", *(argv or [])])


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from siglip_tf.data.service import InputServer

    _server = InputServer(data_of(sys.argv[1]), 0, 1)
    print("port", _server.port, flush=True)
    _server.wait()
