"""Both towers over whole data sets, under whatever strategy the model's variables live in."""

from collections.abc import Callable, Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf

from siglip_tf.data import Preprocessing

_TEXTS_TOKENISED_AT_ONCE = 4096


class Embedder:
    """Embeds images and texts in batches of one fixed shape; the last one is padded and the padding cut off.

    Every replica takes its share of each batch, and each worker of a MultiWorkerMirroredStrategy or TPU pod decodes
    only what its own replicas need; all workers return all embeddings, in the order of the data.

    Args:
        model: a `SigLIP`; its strategy is the one it was built in.
        batch_size: images or texts a step over all replicas, raised to a multiple of their number.
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
        self._encode_images = tf.function(self._run(lambda x: model.encode_image(_normalize(x))))
        self._encode_texts = tf.function(self._run(model.encode_text))
        # Functions, so that a second data set is not traced through all of decoding again.
        image, text = self.preprocessing.image, self.preprocessing.text
        self._pixels = image and tf.function(image.pixels, input_signature=[tf.TensorSpec([], tf.string)])
        self._tokenize = text and tf.function(text, input_signature=[tf.TensorSpec([None], tf.string)])
        self._pool_images = tf.function(self._run(lambda x: tf.cast(model.image(_normalize(x)), tf.float32)))

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
            pooled: the image tower's output as it is, instead of the l2-normalised embedding (few-shot probes).
            progress: called with the number of images done after each batch.

        Returns:
            (images, embed_dim) float32.

        Raises:
            ValueError: an image that cannot be decoded, named by its position and "id", or no images.
        """
        size = self.preprocessing.image.size
        images = examples.map(lambda example: example["image"])
        try:
            return self._embed(
                self._share_of(images).map(self._pixels, num_parallel_calls=tf.data.AUTOTUNE),
                tf.zeros([size, size, 3], tf.uint8),
                self._pool_images if pooled else self._encode_images,
                progress,
            )
        except tf.errors.InvalidArgumentError as error:
            raise ValueError(_broken_image(examples, self._pixels) or str(error)) from error

    def texts(self, texts: Sequence[str], *, progress: Callable[[int], None] | None = None) -> np.ndarray:
        """Embeddings (texts, embed_dim) float32 of strings, tokenised as the model's preprocessing says.

        Texts of the same tokens are embedded once: their scores then tie exactly, wherever they stand in a batch.

        Raises:
            ValueError: no texts.
        """
        if len(texts) == 0:
            raise ValueError("There is nothing to embed: no texts.")
        strings = tf.data.Dataset.from_tensor_slices(tf.constant(list(texts), tf.string))
        ids = np.concatenate([self._tokenize(part).numpy() for part in strings.batch(_TEXTS_TOKENISED_AT_ONCE)])
        ids, position = np.unique(ids, axis=0, return_inverse=True)
        dataset = self._share_of(tf.data.Dataset.from_tensor_slices(ids))
        return self._embed(dataset, tf.zeros(ids.shape[1], tf.int32), self._encode_texts, progress)[position.ravel()]

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
        """The examples that this worker's replicas take, in order."""
        if len(self._local_replicas) == self._replicas:
            return dataset
        first, last = self._local_replicas[0], self._local_replicas[-1]

        def is_local(index, _):
            replica = index % self.batch_size // self._share
            return tf.logical_and(replica >= first, replica <= last)

        return dataset.enumerate().filter(is_local).map(lambda _, value: value)

    def _embed(
        self, dataset: tf.data.Dataset, pad: tf.Tensor, encode: Callable, progress: Callable[[int], None] | None
    ) -> np.ndarray:
        found, done = [], 0
        for batch, count in self._padded_batches(dataset, pad):
            valid = tf.cast(tf.range(len(batch)) < count, tf.float32)
            embeddings = self._gather(encode(self._on_replicas(batch)))
            keep = self._gather(self._on_replicas(valid)) > 0
            found.append(embeddings[keep])
            done += int(keep.sum())
            if progress is not None:
                progress(done)
            if not keep.all():
                break
        if done == 0:
            raise ValueError("There is nothing to embed: the data set is empty.")
        return np.concatenate(found)

    def _padded_batches(self, dataset: tf.data.Dataset, pad: tf.Tensor) -> Iterator[tuple[tf.Tensor, int]]:
        """Batches of this worker's share and how many of each are real; with several workers empty ones go on for
        ever, because a worker cannot see that the others' data has ended."""
        size = self._share * len(self._local_replicas)
        for batch in dataset.batch(size).prefetch(1):
            count = len(batch)
            missing = tf.repeat(pad[None], size - count, axis=0)
            yield tf.concat([batch, missing], axis=0), count
        while len(self._local_replicas) < self._replicas:
            yield tf.repeat(pad[None], size, axis=0), 0

    def _gather(self, value) -> np.ndarray:
        """All replicas' rows in order, on every worker. One worker needs no collective op, which TensorFlow would not
        let two strategies of different sizes use in one process."""
        if len(self._local_replicas) == self._replicas:
            return np.concatenate([part.numpy() for part in self.strategy.experimental_local_results(value)])
        return self.strategy.gather(value, axis=0).numpy()

    def _on_replicas(self, batch: tf.Tensor):
        first = self._local_replicas[0]

        def part(context):
            start = (context.replica_id_in_sync_group - first) * self._share
            return batch[start : start + self._share]

        return self.strategy.experimental_distribute_values_from_function(part)


def _normalize(pixels: tf.Tensor) -> tf.Tensor:
    return tf.cast(pixels, tf.float32) / 127.5 - 1.0


def _broken_image(examples: tf.data.Dataset, decode: Callable) -> str | None:
    """Names the first image that cannot be decoded."""
    for position, example in enumerate(examples):
        try:
            decode(example["image"])
        except tf.errors.InvalidArgumentError as error:
            name = example["id"].numpy().decode(errors="replace") if "id" in example else "without id"
            return f"Image {position} ({name}) cannot be decoded: {error.message.splitlines()[0]}"
    return None
