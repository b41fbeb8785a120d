"""A source in memory for the pipeline's tests: images of one colour whose captions say which record they are."""

import numpy as np
import sentencepiece
import tensorflow as tf

from siglip_tf.data.preprocessing import ImagePreprocessing, Preprocessing
from siglip_tf.data.sources.base import Source, fingerprint_of
from siglip_tf.data.text.tokenizer import Tokenizer


def encode(value: int) -> bytes:
    """A PNG of 4 x 4 pixels whose colour is a number below 2^24."""
    colour = [value & 255, value >> 8 & 255, value >> 16 & 255]
    return tf.io.encode_png(np.full((4, 4, 3), colour, np.uint8)).numpy()


class MemorySource(Source):
    """`size` records; `broken` maps an index to the example's fields that differ."""

    def __init__(self, size: int, broken: dict[int, dict] | None = None, runs=None, captions: int = 1, name="memory"):
        self.size, self.name, self.runs = size, name, None if runs is None else np.asarray(runs)
        self.record_bytes = 100.0
        self.fingerprint = fingerprint_of(name, size)
        self._broken = broken or {}
        self._images = tf.constant([self._broken.get(i, {}).get("image", encode(i)) for i in range(size)])
        captions = [[f"{k} says {name} {i}" for k in range(captions)] for i in range(size)]
        self._captions = tf.ragged.constant(
            [self._broken.get(i, {}).get("captions", own) for i, own in enumerate(captions)], dtype=tf.string
        )

    def read(self, index):
        return {
            "image": self._images[index],
            "captions": self._captions[index],
            "id": tf.strings.join([self.name, "-", tf.strings.as_string(index)]),
            "label": tf.cast(index % 10, tf.int32),
        }

    def locate(self, index):
        return f"{self.name}-{index // 10}", index % 10


def tiny_preprocessing(size: int = 4, length: int = 6) -> Preprocessing:
    """Images of `size` pixels, and a SentencePiece vocabulary trained on a few words."""
    import io

    model = io.BytesIO()
    words = [f"{k} says memory {i}, a picture of colour {i}" for i in range(30) for k in range(3)]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(words), model_writer=model, vocab_size=60, minloglevel=2, hard_vocab_limit=False
    )
    return Preprocessing(ImagePreprocessing(size), Tokenizer(model.getvalue(), length))
