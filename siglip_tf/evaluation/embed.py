"""Embeds whole data sets with both towers, under the strategy of the model's variables."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from siglip_tf.data import Preprocessing
from siglip_tf.data.order.bad_records import first_line

_TEXTS_TOKENIZED_AT_ONCE = 4096

# Graph code here has no Python control flow to convert; looking for some takes longer than tracing it.
_as_written = tf.autograph.experimental.do_not_convert
_function = functools.partial(tf.function, autograph=False)


class _NothingToEmbedError(ValueError):
    """Raised if there is no example, or if no example can be decoded."""


class Embedder:
    """Embeds images and texts in batches of one fixed shape. The last batch is padded, and the padding is removed.

    Every replica processes an equal part of each batch. Each worker of a MultiWorkerMirroredStrategy or a TPU pod
    decodes only what its own replicas need. All workers return all embeddings, in the order of the data.

    Args:
        model: a `SigLIP`. The embedder uses the strategy in which the model was built.
        batch_size: number of images or texts per step over all replicas. It is rounded up to a multiple of the number
            of replicas.
        preprocessing: the preprocessing to use. The default is the model's own.

    Raises:
        ValueError: if the batch size is below 1, or if the model has no preprocessing and none is given.
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
        self._share = -(-batch_size // self._replicas)  # examples per replica
        self.batch_size = self._share * self._replicas
        self._local_replicas = self._find_local_replicas()
        image, text = self.preprocessing.image, self.preprocessing.text
        self._encode_images = _function(self._run(lambda x: model.encode_image(image.normalize(x))))
        self._encode_texts = _function(self._run(model.encode_text))
        # These are functions, so that decoding is not traced again for a second data set.
        self._pixels = image and _function(image.pixels, input_signature=[tf.TensorSpec([], tf.string)])
        self._tokenize = text and _function(text, input_signature=[tf.TensorSpec([None], tf.string)])
        self._pool_images = _function(self._run(lambda x: tf.cast(model.image(image.normalize(x)), tf.float32)))

    def images(
        self,
        examples: tf.data.Dataset,
        *,
        pooled: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> np.ndarray:
        """Embeds encoded images.

        Args:
            examples: a data set of dicts with "image", the bytes of an image file, in a fixed order. Other keys are
                ignored.
            pooled: whether to return the image tower's output instead of l2-normalized embeddings, for few-shot probes.
            progress: a function that is called after each batch with the number of images done.

        Returns:
            Embeddings, float32 (images, embed_dim).

        Raises:
            ValueError: if there are no images, or if an image cannot be decoded. The message contains its position and
                "id".
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
        """Does the same as `images`, but leaves out the images that cannot be decoded.

        Returns:
            Embeddings, float32 (decoded, embed_dim), and the positions of their images in `examples`, int64 (decoded,).

        Raises:
            ValueError: if no image can be decoded.
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
        """Returns the ids of images that cannot be decoded, with the reasons, by position.

        Args:
            examples: a data set as in `images`.
            among: the positions to check. By default, only the first broken image is returned.
        """
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
        """Raises a ValueError if the model's preprocessing has no tokenizer."""
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
        images = self._share_of(examples.map(_as_written(lambda example: example["image"])))
        pixels = images.map(
            _as_written(lambda position, data: (position, self._pixels(data))), num_parallel_calls=tf.data.AUTOTUNE
        )
        return self._embed(
            pixels.ignore_errors() if skip else pixels,
            self._blank_image(),
            self._pool_images if pooled else self._encode_images,
            progress,
        )

    def texts(self, texts: Sequence[str], *, progress: Callable[[int], None] | None = None) -> np.ndarray:
        """Embeds strings, which the model's preprocessing tokenizes.

        Texts with the same tokens are embedded once, so that their scores are exactly equal wherever they occur in a
        batch.

        Args:
            texts: the strings.
            progress: a function that is called after each batch with the number of texts done.

        Returns:
            Embeddings, float32 (texts, embed_dim).

        Raises:
            ValueError: if there are no texts or there is no tokenizer.
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
        """Returns the value that pads a batch, in the structure of `pixels`. It is 1, as NaFlex needs a patch."""
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
        """Returns (position, example) for the examples that this worker's replicas process, in order."""
        if len(self._local_replicas) == self._replicas:
            return dataset.enumerate()
        first, last = self._local_replicas[0], self._local_replicas[-1]

        def is_local(index, _):
            replica = index % self.batch_size // self._share
            return tf.logical_and(replica >= first, replica <= last)

        return dataset.enumerate().filter(_as_written(is_local))

    def _embed(
        self, dataset: tf.data.Dataset, pad: Any, encode: Callable, progress: Callable[[int], None] | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the embeddings and positions of all workers' examples, in order of position."""
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
        order = np.argsort(places, kind="stable")  # workers may leave out different numbers of examples
        return np.concatenate(found)[order], places[order]

    def _padded_batches(self, dataset: tf.data.Dataset, pad: Any) -> Iterator[tuple[Any, tf.Tensor]]:
        """Yields this worker's part of the batches with the positions of the examples. Padding has the position -1.

        With several workers, empty batches follow without end, because a worker does not know when the others' data
        has ended.
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
        """Returns all replicas' rows in order, on every worker.

        A single worker uses no collective op, because TensorFlow does not allow collectives for two strategies of
        different sizes in one process.
        """
        if len(self._local_replicas) == self._replicas:
            return np.concatenate([part.numpy() for part in self.strategy.experimental_local_results(value)])
        return self.strategy.gather(value, axis=0).numpy()

    def _on_replicas(self, batch):
        first = self._local_replicas[0]

        def part(context):
            start = (context.replica_id_in_sync_group - first) * self._share
            return tf.nest.map_structure(lambda value: value[start : start + self._share], batch)

        return self.strategy.experimental_distribute_values_from_function(part)
