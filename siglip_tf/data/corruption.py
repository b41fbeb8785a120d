"""Corrupted training data, to measure how robust the sigmoid loss is to label noise.

Source: "Sigmoid Loss for Language Image Pre-Training", section 4.10 and figure 7.
"""

from typing import Any

import tensorflow as tf

KINDS = ("image", "text", "batch", "image_text", "image_text_batch")


class Corruption:
    """Corrupts a batch of image-text pairs in the graph, the same way for the same seed.

    - "image": with probability p an image becomes uniform random noise.
    - "text": with probability p a text becomes random tokens: a length uniform in 1 .. text length - 1, tokens
      uniform over the vocabulary without EOS and pad, then EOS and pads.
    - "batch": the texts of a random fraction p of the batch are permuted, so that each of them has a wrong image.
    - "image_text": "image" and "text", independently.
    - "image_text_batch": all three.

    Args:
        kind: one of the kinds above.
        probability: p, in [0, 1].
        vocab_size: number of tokens in the vocabulary; required by the kinds that draw random tokens.
        eos_id: the tokenizer's end-of-sentence token.
        pad_id: the tokenizer's padding token.

    Raises:
        ValueError: an unknown kind, a probability outside [0, 1], or a missing vocabulary size.

    Example:
        corrupt = Corruption("image_text", 0.2, vocab_size=32_000)
        batch = corrupt(batch, seed=tf.stack([run_seed, step]))
    """

    def __init__(
        self, kind: str, probability: float, *, vocab_size: int | None = None, eos_id: int = 1, pad_id: int = 1
    ):
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {KINDS}. Received: {kind!r}")
        if not 0.0 <= probability <= 1.0:
            raise ValueError(f"probability must be within [0, 1]. Received: {probability}")
        self.parts = frozenset(kind.split("_"))
        special = {eos_id, pad_id}
        if "text" in self.parts and (vocab_size is None or vocab_size <= len(special)):
            raise ValueError(f"{kind!r} draws random tokens and needs the vocabulary's size. Received: {vocab_size}")
        self.kind = kind
        self.probability = probability
        self.vocab_size = vocab_size
        self.eos_id = eos_id
        self.pad_id = pad_id

    def _drawn(self, count: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        return tf.random.stateless_uniform([count], seed) < self.probability

    def _corrupt_images(self, images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        choice, content = tf.unstack(tf.random.split(seed, 2))
        if images.dtype == tf.uint8:
            # TensorFlow cannot draw 8-bit integers.
            noise = tf.cast(tf.random.stateless_uniform(tf.shape(images), content, 0, 256, tf.int32), tf.uint8)
        else:
            noise = tf.random.stateless_uniform(tf.shape(images), content, -1.0, 1.0, images.dtype)
        return tf.where(self._drawn(tf.shape(images)[0], choice)[:, None, None, None], noise, images)

    def _corrupt_texts(self, texts: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        batch, length = tf.shape(texts)[0], tf.shape(texts)[1]
        choice, content, ends = tf.unstack(tf.random.split(seed, 3))
        special = sorted({self.eos_id, self.pad_id})
        words = (self.vocab_size or 0) - len(special)
        tokens = tf.random.stateless_uniform([batch, length], content, 0, words, tf.int32)
        for token in special:
            tokens += tf.cast(tokens >= token, tf.int32)
        end = tf.random.stateless_uniform([batch, 1], ends, 1, tf.maximum(length, 2), tf.int32)
        position = tf.range(length)[None, :]
        tokens = tf.where(position < end, tokens, tf.where(position == end, self.eos_id, self.pad_id))
        return tf.where(self._drawn(batch, choice)[:, None], tf.cast(tokens, texts.dtype), texts)

    def _misalign(self, texts: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        batch = tf.shape(texts)[0]
        moved = tf.cast(tf.round(self.probability * tf.cast(batch, tf.float32)), tf.int32)
        order = tf.argsort(tf.random.stateless_uniform([batch], seed))[:moved]
        # A cycle through a random order moves every text; a plain shuffle would leave one in place on average.
        source = tf.tensor_scatter_nd_update(tf.range(batch), order[:, None], tf.roll(order, 1, 0))
        return tf.gather(texts, source)

    @tf.autograph.experimental.do_not_convert
    def __call__(self, batch: dict[str, tf.Tensor], seed: Any) -> dict[str, tf.Tensor]:
        """Returns a corrupted copy of the batch.

        Args:
            batch: `"image"` float32 in [-1, 1] or uint8 (batch, height, width, 3); `"text"` int32 (batch, length);
                other entries pass through.
            seed: int (2,), a different one for every batch.

        Returns:
            A new dict with the same entries, shapes, and dtypes.

        Raises:
            ValueError: the kind corrupts images, but the batch holds none (stored embeddings cannot be corrupted).
        """
        images, texts, order = tf.unstack(tf.random.split(tf.convert_to_tensor(seed), 3))
        batch = dict(batch)
        if "image" in self.parts:
            if "image" not in batch:
                raise ValueError(f"{self.kind!r} corrupts images; the batch holds {sorted(batch)} and no 'image'.")
            batch["image"] = self._corrupt_images(batch["image"], images)
        if "text" in self.parts:
            batch["text"] = self._corrupt_texts(batch["text"], texts)
        if "batch" in self.parts:
            batch["text"] = tf.ensure_shape(self._misalign(batch["text"], order), batch["text"].shape)
        return batch

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, which JSON can hold."""
        names = ("kind", "probability", "vocab_size", "eos_id", "pad_id")
        return {name: getattr(self, name) for name in names}
