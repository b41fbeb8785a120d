"""Training batches from stored embeddings, with the interface and the exact position of `TrainingData`."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from siglip_tf.data.embeddings.stored import StoredEmbeddings
from siglip_tf.data.order.early_limit import ENDLESS
from siglip_tf.data.order.position import check_state, state_of
from siglip_tf.data.order.record_order import RecordOrder, caption_choices
from siglip_tf.data.order.shares import check_batch_and_seed, own_batches, share_of


class EmbeddingData:
    """Stored embeddings as endless training batches: each image once per epoch, with a random caption of its own.

    Args:
        stored: the embeddings.
        global_batch: pairs per step, over all workers and replicas.
        seed: determines the order and the choice of captions.
        streams: number of equal parts of the global batch, see `TrainingData`; the number of workers by default.
        corruption: `(batch, seed int64 (2,)) -> batch` for the texts (section 4.10), or None.
        prefetch: number of batches kept ready.

    Raises:
        ValueError: an argument out of range.

    Example:
        data = EmbeddingData(StoredEmbeddings(folder), global_batch=4096)
        model.fit(data.dataset(), steps_per_epoch=1000)
        state = data.state(step=1000)
    """

    def __init__(
        self,
        stored: StoredEmbeddings,
        global_batch: int,
        *,
        seed: int = 0,
        streams: int | None = None,
        corruption: Callable[[dict[str, tf.Tensor], tf.Tensor], dict[str, tf.Tensor]] | None = None,
        prefetch: int = 2,
    ):
        check_batch_and_seed(global_batch, seed)
        self.stored = stored
        self.global_batch = global_batch
        self.seed = seed
        self.streams = streams
        self._corruption = corruption
        self._prefetch = prefetch
        self._first_step = 0
        self._first_slot = 0

    def restore(self, state: dict[str, Any]) -> None:
        """Restores a saved position: the next `dataset` begins there.

        Args:
            state: what `state` returned on any worker, or what `merge_states` made of all of them.

        Raises:
            ValueError: the state belongs to other embeddings, another seed, or another number of streams.
        """
        check_state(state, self.seed, self.stored.fingerprint, self.streams)
        self.streams = state["streams"]
        self._first_step = state["step"]
        self._first_slot = next(iter(state["passed"].values()))

    def state(self, step: int) -> dict[str, Any]:
        """Returns the position, as plain JSON, after the run has consumed `step` global batches.

        Raises:
            ValueError: `dataset` has not been called, or the step is before the restored one.
        """
        if self.streams is None or step < self._first_step:
            raise ValueError(f"The position is known from `dataset` and step {self._first_step} on. Received: {step}")
        slot = self._slot(step)
        position = {"step": step, "passed": {str(stream): slot for stream in range(self.streams)}, "skipped": {}}
        return state_of(self.seed, self.stored.fingerprint, self.streams, position)

    def _slot(self, step: Any) -> Any:
        return self._first_slot + (step - self._first_step) * (self.global_batch // self.streams)

    def dataset(self, context: tf.distribute.InputContext | None = None) -> tf.data.Dataset:
        """Returns the endless batches of one worker, from the restored position or from the beginning.

        Args:
            context: as `strategy.distribute_datasets_from_function(data.dataset)` passes it; each batch is then one
                replica's. None means a single worker, whose batches are whole global batches.

        Returns:
            Dataset of `"image_embedding"`: float32 (batch, embed_dim); `"text"`: int32 (batch, text_length).

        Raises:
            ValueError: the numbers of pairs, streams, workers, and replicas do not divide each other.
        """
        share = share_of(context, self.global_batch, self.streams)
        self.streams = share.all_streams
        # `TrainingData` uses the same order and captions for a single source, so the pairs are the same.
        order = RecordOrder(self.stored.size, self.seed << 10, self.streams)

        def gather(number: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return self._gather(order, share.streams, *divmod(int(number), share.batches), share.size)

        @tf.autograph.experimental.do_not_convert
        def batch(number: tf.Tensor) -> dict[str, tf.Tensor]:
            embeddings, texts = tf.numpy_function(gather, [number], (self._wire_dtype, tf.int32))
            pairs = self._pairs(embeddings, texts, share.size)
            if self._corruption is None:
                return pairs
            return self._corruption(pairs, tf.stack([number, tf.constant(share.worker + self.seed, tf.int64)]))

        numbers = tf.data.Dataset.range(self._first_step * share.batches, ENDLESS)
        return own_batches(numbers.map(batch, num_parallel_calls=2, deterministic=True), self._prefetch)

    @property
    def _wire_dtype(self) -> tf.DType:
        # NumPy functions cannot return bfloat16 into a graph.
        return tf.uint16 if self.stored.dtype == tf.bfloat16 else self.stored.dtype

    def _gather(
        self, order: RecordOrder, streams: range, step: int, replica: int, size: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Gathers the `size` pairs of one replica from the concatenated blocks of a worker's streams."""
        block = self.global_batch // self.streams
        slots = self._slot(step) + np.arange(block, dtype=np.int64)
        mine = slice(replica * size, (replica + 1) * size)
        images = np.concatenate([order.records(stream, slots) for stream in streams])[mine]
        epochs = np.concatenate([order.epochs(stream, slots) for stream in streams])[mine]
        embeddings, texts = self.stored.gather(images, caption_choices(self.seed, epochs, images))
        return embeddings.view(self._wire_dtype.as_numpy_dtype), texts

    def _pairs(self, embeddings: tf.Tensor, texts: tf.Tensor, size: int) -> dict[str, tf.Tensor]:
        embeddings = tf.ensure_shape(embeddings, [size, self.stored.embed_dim])
        embeddings = tf.cast(tf.bitcast(embeddings, self.stored.dtype), tf.float32)
        return {"image_embedding": embeddings, "text": tf.ensure_shape(texts, [size, self.stored.text_length])}
