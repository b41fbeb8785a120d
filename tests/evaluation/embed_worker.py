"""One worker of a MultiWorkerMirroredStrategy: `python -m tests.evaluation.embed_worker BATCH_SIZE RESULT.npz`."""

import sys

import numpy as np
import tensorflow as tf


def main(batch_size: str, result: str) -> None:
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    from siglip_tf.evaluation.embed import Embedder
    from tests.evaluation.test_embed import IMAGES, TEXTS
    from tests.example_model import example_model

    with strategy.scope():
        model = example_model()
    embedder = Embedder(model, int(batch_size))
    images = embedder.images(tf.data.Dataset.from_tensor_slices({"image": IMAGES}))
    np.savez(result, images=images, texts=embedder.texts(TEXTS))


if __name__ == "__main__":
    main(*sys.argv[1:])
