"""Runs both towers over whole data sets, under the strategy of the model's variables."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from siglip_tf.data import Preprocessing
from siglip_tf.data.order.bad_records import first_line

_TEXTS_TOKENIZED_AT_ONCE = 4096


class _NothingToEmbedError(ValueError):
    """No example, or none that can be decoded."""


class Embedder:
    """Embeds images and texts in batches of one fixed shape; the last one is padded and the padding cut off.

    Every replica takes its share of each batch, and each worker of a MultiWorkerMirroredStrategy or TPU pod decodes
    only what its own replicas need; all workers return all embeddings, in the order of the data.

    Args:
        model: a `SigLIP`; its strategy is the one it was built in.
        batch_size: images or texts per step over all replicas, raised to a multiple of their number.
        preprocessing: by default the model's own.

    Raises:
        ValueError: the model has no preprocessing and none is given.
    """

    def __init__(self, model: keras.Model, batch_size: int = 256, preprocessing: Preprocessing | None = None):
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1. Received: {batch_size}.")
        self.model = model
        self.preprocessing = preprocessing or model.preprocessing
        if self.preprocessing is None:
            raise ValueError(
                "The model has no preprocessing of its own. Set `model.preprocessing` or give `preprocessing=`."
            )
        self.strategy = model.distribute_strategy
        self._replicas = self.strategy.num_replicas_in_sync
        self._share = -(-batch_size // self._replicas)  # examples of one replica
        self.batch_size = self._share * self._replicas
        self._local_replicas = self._find_local_replicas()
        image, text = self.preprocessing.image, self.preprocessing.text
        self._encode_images = tf.function(self._run(lambda x: model.encode_image(image.normalize(x))))
        self._encode_texts = tf.function(self._run(model.encode_text))
        # Functions, so that a second data set is not traced through all of decoding again.
        self._pixels = image and tf.function(image.pixels, input_signature=[tf.TensorSpec([], tf.string)])
        self._tokenize = text and tf.function(text, input_signature=[tf.TensorSpec([None], tf.string)])
        self._pool_images = tf.function(self._run(lambda x: tf.cast(model.image(image.normalize(x)), tf.float32)))

    def images(
        self,
        examples: tf.data.Dataset,
        *,
        pooled: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> np.ndarray:
        """Embeddings of encoded images.

        Args:
            examples: dicts with "image", the bytes of an image file (other keys are ignored), in a fixed order.
            pooled: the image tower's output as it is, instead of the l2-normalized embedding (few-shot probes).
            progress: called with the number of images done after each batch.

        Returns:
            (images, embed_dim) float32.

        Raises:
            ValueError: an image that cannot be decoded, named by its position and "id", or no images.
        """
        try:
            return self._embed_images(examples, pooled, progress)[0]
        except tf.errors.InvalidArgumentError as error:
            broken = self.broken_images(examples)
            if not broken:
                raise ValueError(first_line(error)) from error
            position, (name, reason) = next(iter(broken.items()))
            raise ValueError(f"Image {position} ({name}) cannot be decoded: {reason}") from error

    def sound_images(
        self,
        examples: tf.data.Dataset,
        *,
        pooled: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `images`, but those that cannot be decoded are left out.

        Returns:
            Embeddings (sound, embed_dim) float32, and the positions (sound,) int64 of their images in `examples`.

        Raises:
            ValueError: no image can be decoded.
        """
        try:
            return self._embed_images(examples, pooled, progress, skip=True)
        except _NothingToEmbedError as error:
            broken = self.broken_images(examples)
            if not broken:
                raise
            name, reason = next(iter(broken.values()))
            raise ValueError(f"{error} The first: {name}: {reason}") from error

    def broken_images(
        self, examples: tf.data.Dataset, among: Sequence[int] | None = None
    ) -> dict[int, tuple[str, str]]:
        """Position -> (id, reason) of images that cannot be decoded: the first, or those at the positions `among`."""
        wanted = None if among is None else set(among)
        found: dict[int, tuple[str, str]] = {}
        for position, example in enumerate(examples):
            if wanted is not None and position not in wanted:
                continue
            try:
                self._pixels(example["image"])
            except tf.errors.InvalidArgumentError as error:
                name = example["id"].numpy().decode(errors="replace") if "id" in example else "without id"
                found[position] = name, first_line(error).partition("; it begins")[0]
            if len(found) == (1 if wanted is None else len(wanted)):
                break
        return found

    def require_tokenizer(self) -> None:
        """Raises a ValueError where the model's preprocessing cannot read texts."""
        if self._tokenize is None:
            raise ValueError(
                "The checkpoint has no tokenizer, so it cannot read texts. Give its SentencePiece model: "
                "--tokenizer FILE in commands, or SigLIP.from_checkpoint(..., tokenizer=FILE)."
            )

    def _embed_images(
        self,
        examples: tf.data.Dataset,
        pooled: bool,
        progress: Callable[[int], None] | None,
        skip: bool = False,
    ) -> tuple[np.ndarray, np.ndarray]:
        if self._pixels is None:
            raise ValueError("The model's preprocessing has no images. Set `model.preprocessing` or give one.")
        images = self._share_of(examples.map(lambda example: example["image"]))
        pixels = images.map(lambda position, data: (position, self._pixels(data)), num_parallel_calls=tf.data.AUTOTUNE)
        return self._embed(
            pixels.ignore_errors() if skip else pixels,
            self._blank_image(),
            self._pool_images if pooled else self._encode_images,
            progress,
        )

    def texts(self, texts: Sequence[str], *, progress: Callable[[int], None] | None = None) -> np.ndarray:
        """Embeddings (texts, embed_dim) float32 of strings, tokenized as the model's preprocessing says.

        Texts of the same tokens are embedded once: their scores then tie exactly, wherever they stand in a batch.

        Raises:
            ValueError: no texts, or no tokenizer.
        """
        self.require_tokenizer()
        if len(texts) == 0:
            raise ValueError("There is nothing to embed: no texts.")
        strings = tf.data.Dataset.from_tensor_slices(tf.constant(list(texts), tf.string))
        ids = np.concatenate([self._tokenize(part).numpy() for part in strings.batch(_TEXTS_TOKENIZED_AT_ONCE)])
        ids, position = np.unique(ids, axis=0, return_inverse=True)
        dataset = self._share_of(tf.data.Dataset.from_tensor_slices(ids))
        found, _ = self._embed(dataset, tf.zeros(ids.shape[1], tf.int32), self._encode_texts, progress)
        return found[position.ravel()]

    def _blank_image(self):
        """What pads a batch, of the structure that `pixels` gives; NaFlex wants at least one patch."""
        return tf.nest.map_structure(lambda spec: tf.ones(spec.shape, spec.dtype), self.preprocessing.image.spec)

    def _find_local_replicas(self) -> list[int]:
        found = []

        def note(context):
            found.append(context.replica_id_in_sync_group)
            return tf.zeros([])

        self.strategy.experimental_distribute_values_from_function(note)
        return sorted(found)

    def _run(self, encode: Callable) -> Callable:
        return lambda value: self.strategy.run(encode, args=(value,))

    def _share_of(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        """(position, example) of the examples that this worker's replicas take, in order."""
        if len(self._local_replicas) == self._replicas:
            return dataset.enumerate()
        first, last = self._local_replicas[0], self._local_replicas[-1]

        def is_local(index, _):
            replica = index % self.batch_size // self._share
            return tf.logical_and(replica >= first, replica <= last)

        return dataset.enumerate().filter(is_local)

    def _embed(
        self, dataset: tf.data.Dataset, pad: Any, encode: Callable, progress: Callable[[int], None] | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Embeddings and positions of all workers' examples, in order of position."""
        found, positions, done = [], [], 0
        for batch, numbers in self._padded_batches(dataset, pad):
            embeddings = self._gather(encode(self._on_replicas(batch)))
            numbers = self._gather(self._on_replicas(numbers))
            keep = numbers >= 0
            found.append(embeddings[keep])
            positions.append(numbers[keep])
            done += int(keep.sum())
            if progress is not None:
                progress(done)
            if not keep.all():
                break
        if done == 0:
            raise _NothingToEmbedError("There is nothing to embed: no example, or none that can be decoded.")
        places = np.concatenate(positions)
        order = np.argsort(places, kind="stable")  # workers differ in how many of theirs are left out
        return np.concatenate(found)[order], places[order]

    def _padded_batches(self, dataset: tf.data.Dataset, pad: Any) -> Iterator[tuple[Any, tf.Tensor]]:
        """Batches of this worker's share with their positions, -1 for padding.

        With several workers, empty batches follow without end: a worker cannot see that the others' data has ended.
        """
        size = self._share * len(self._local_replicas)

        def repeat(value: tf.Tensor, times: int) -> tf.Tensor:
            return tf.repeat(value[None], times, axis=0)

        for numbers, batch in dataset.batch(size).prefetch(1):
            missing = size - len(numbers)
            padded = tf.nest.map_structure(lambda b, p, m=missing: tf.concat([b, repeat(p, m)], 0), batch, pad)
            yield padded, tf.pad(numbers, [[0, missing]], constant_values=-1)
        while len(self._local_replicas) < self._replicas:
            yield tf.nest.map_structure(lambda p: repeat(p, size), pad), -tf.ones(size, tf.int64)

    def _gather(self, value) -> np.ndarray:
        """All replicas' rows in order, on every worker. One worker needs no collective op, which TensorFlow would not
        let two strategies of different sizes use in one process."""
        if len(self._local_replicas) == self._replicas:
            return np.concatenate([part.numpy() for part in self.strategy.experimental_local_results(value)])
        return self.strategy.gather(value, axis=0).numpy()

    def _on_replicas(self, batch):
        first = self._local_replicas[0]

        def part(context):
            start = (context.replica_id_in_sync_group - first) * self._share
            return tf.nest.map_structure(lambda value: value[start : start + self._share], batch)

        return self.strategy.experimental_distribute_values_from_function(part)
