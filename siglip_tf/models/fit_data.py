"""Prepares the data that `fit` and `evaluate` accept: every source of batches that Keras supports.

The first batch is checked before the first step, because a compiled step would not notice pixels that are not
normalized and ids outside the table.
"""

import contextlib
import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from siglip_tf.losses import as_group
from siglip_tf.models import batch as batches

_DEFAULT_BATCH = 32  # the same as in Keras
_MARK = "siglip_tf.models.fit_data"

# Graph code here has no Python control flow to convert; looking for some takes longer than tracing it.
_as_written = tf.autograph.experimental.do_not_convert


def prepare(
    x: Any, *, batch_size: int | None, replicas: int, vocab_size: int, shuffle: bool = False, training: bool = False
) -> tuple[Any, int | None]:
    """Returns a source of global batches for Keras, and the batch size of a replica, or None if it is not known.

    Args:
        x: a tf.data data set, a dict of arrays, a `keras.utils.PyDataset`, or a generator of batches. Anything else is
            returned unchanged.
        batch_size: the size of a global batch, for arrays.
        replicas: the number of replicas that share a global batch.
        vocab_size: the number of token ids.
        shuffle: whether to shuffle arrays again in every epoch.
        training: whether the data is for training. Then all batches must have the same size, and a smaller last batch
            of shuffled arrays is left out. Otherwise, smaller batches are padded, and a "mask" says which rows are
            examples.

    Raises:
        ValueError: if a batch is not divisible by the number of replicas, batches differ in size, or values are out of
            range.
    """
    if isinstance(x, Mapping):
        x = _of_arrays(x, batch_size, replicas, shuffle, training)
    elif batch_size is not None:
        raise ValueError(
            f"Expected no batch_size for data that comes in batches. Received: batch_size={batch_size} with "
            f"{type(x).__name__}."
        )
    if isinstance(x, tf.data.Dataset):
        size = _static_size(x)
        if size is None and not training:
            size = _size_of_first(x)
            x = _filled(x, size)
        return _looked_at(x, vocab_size), _share(size, replicas)
    if isinstance(x, keras.utils.PyDataset):
        size = _check_first(x[0], vocab_size)
        last = x.num_batches or 0  # None for one that never ends
        found = _size(batches.inputs_of(x[last - 1])) if last > 1 else size
        if found < size and not training:
            x = _FilledBatches(x, size)
        elif found != size:
            raise ValueError(
                f"Expected batches of one size: the loss divides by the global batch. Received: a PyDataset whose "
                f"first batch has {size} examples and whose last has {found}. Leave the last one out of its length."
            )
        return x, _share(size, replicas)
    if isinstance(x, Iterator):
        try:
            first = next(x)
        except StopIteration:
            raise ValueError("Expected a generator of batches. Received: one that yields nothing.") from None
        size = _check_first(first, vocab_size)
        return _of_one_size(itertools.chain([first], x), size, fill=not training), _share(size, replicas)
    return x, None


@contextlib.contextmanager
def values_named() -> Iterator[None]:
    """Converts the TensorFlow error of an invalid first batch, a page of graph text, to a short `ValueError`."""
    try:
        yield
    except tf.errors.OpError as error:
        found = re.search(rf"{_MARK} (pixel|id|group|size) (\d+)\] \[(\S+?)\]", str(error))
        if found is None:
            raise
        kind, vocab_size, value = found.groups()
        if kind == "size":
            raise _larger(int(value), int(vocab_size)) from error
        if kind == "group":
            as_group([int(value)])
        elif kind == "pixel":
            batches.check_pixel(float(value))
        else:
            batches.check_id(int(value), int(vocab_size))
        raise


def _static_size(dataset):
    """Returns the batch size, or None if the data set's shapes do not show it."""
    sizes = {spec.shape[0] for spec in tf.nest.flatten(dataset.element_spec) if spec.shape.rank}
    return sizes.pop() if len(sizes) == 1 else None


def _share(size, replicas):
    if size is None:
        return None
    if size % replicas:
        raise ValueError(
            f"Expected a global batch that {replicas} replicas divide. Received: batches of {size}. "
            f"{size - size % replicas or replicas} or {size + -size % replicas} would do."
        )
    return size // replicas


def _of_arrays(arrays, batch_size, replicas, shuffle, training):
    arrays = {key: np.asarray(value) for key, value in arrays.items()}
    sizes = {key: len(value) if value.ndim else 0 for key, value in arrays.items()}
    n = min(sizes.values(), default=0)
    if n < 1 or len(set(sizes.values())) != 1:
        raise ValueError(f"Expected arrays of as many examples each, at least one. Received: {sizes}.")
    size = min(n, _DEFAULT_BATCH if batch_size is None else batch_size)
    if size < 1:
        raise ValueError(f"Expected batch_size >= 1. Received: batch_size={batch_size}.")
    if training and n % size and not shuffle:
        divisors = [d for d in range(1, n + 1) if n % d == 0 and d % replicas == 0]
        fitting = max((d for d in divisors if d <= size), default=min(divisors, default=None))
        advice = f"batch_size={fitting} fits, or cut the arrays to {n - n % size}"
        advice = advice if fitting else f"Cut the arrays to {n - n % size}"
        more = ", or shuffle: then another rest is left out in every epoch"
        raise ValueError(
            f"Expected a batch_size that divides {n} examples: a smaller last batch is another loss. Received: "
            f"batch_size={size}, which leaves {n % size}. {advice}{more}."
        )
    with tf.device("CPU:0"):  # a whole data set would fill the memory of a GPU
        tensors = {key: tf.convert_to_tensor(value) for key, value in arrays.items()}
    numbers = tf.data.Dataset.range(n)
    if shuffle:
        numbers = numbers.shuffle(n)
    data = numbers.batch(size, drop_remainder=training or n % size == 0)
    data = data.map(_as_written(lambda rows: {key: tf.gather(value, rows) for key, value in tensors.items()}))
    if not training and n % size:
        data = _filled(data, size)
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return data.prefetch(2).with_options(options)


def _size(batch):
    sizes = {key: np.shape(value)[0] for key, value in batch.items() if np.ndim(value)}
    if len(set(sizes.values())) != 1:
        raise ValueError(f"Expected as many images as texts. Received: batch sizes {sizes}.")
    return next(iter(sizes.values()))


def _check_first(batch, vocab_size):
    """Checks the values of a batch and returns its size."""
    batch = batches.inputs_of(batch)
    images, text = batch.get("image"), batch.get("text")
    if images is not None and np.issubdtype(np.asarray(images).dtype, np.floating):
        batches.check_pixel(float(batches.largest_pixel(tf.convert_to_tensor(images))))
    if text is not None and np.issubdtype(np.asarray(text).dtype, np.integer) and np.size(text):
        batches.check_id(int(batches.farthest_id(tf.convert_to_tensor(text), vocab_size)), vocab_size)
    return _size(batch)


def _size_of_first(dataset):
    """Returns the size of the first batch of a data set whose shapes do not show it."""
    for first in dataset.take(1):
        return _size(batches.inputs_of(first))
    raise ValueError("Expected a data set of batches. Received: one that is empty.")


def _filled(dataset, size):
    """Pads batches to `size` rows with copies of the first example, and adds a "mask" that is True for examples."""

    @tf.autograph.experimental.do_not_convert
    def fill(*element):
        batch = dict(batches.inputs_of(element if len(element) > 1 else element[0]))
        found = tf.shape(batch["text"] if "text" in batch else next(iter(batch.values())))[0]
        check = tf.debugging.Assert(found <= size, [tf.constant(f"{_MARK} size {size}"), found])
        with tf.control_dependencies([check] if check is not None else []):
            is_example = tf.range(size) < found
        rows = tf.where(is_example, tf.range(size), 0)
        filled = {
            key: tf.ensure_shape(tf.gather(value, rows), (size, *value.shape[1:])) if value.shape.rank else value
            for key, value in batch.items()
        }
        filled["mask"] = is_example & filled["mask"] if "mask" in filled else is_example
        return filled

    return dataset.map(fill, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


def _filled_arrays(batch, size):
    """Does the same as `_filled` for one batch of arrays."""
    batch = batches.inputs_of(batch)
    found = _size(batch)
    if found > size:
        raise _larger(found, size)
    is_example = np.arange(size) < found
    rows = np.where(is_example, np.arange(size), 0)
    filled = {key: np.asarray(value)[rows] if np.ndim(value) else value for key, value in batch.items()}
    return filled | {"mask": is_example & filled["mask"] if "mask" in filled else is_example}


def _larger(found, size):
    return ValueError(
        f"Expected no batch larger than the first. Received: {found} examples where the first batch had {size}."
    )


class _FilledBatches(keras.utils.PyDataset):
    """A PyDataset that pads the smaller batches of another one."""

    def __init__(self, of, size):
        super().__init__(workers=of.workers, use_multiprocessing=of.use_multiprocessing)
        self._of, self._size = of, size

    @property
    def num_batches(self):
        return self._of.num_batches

    def __getitem__(self, number):
        return _filled_arrays(self._of[number], self._size)

    def on_epoch_end(self):
        self._of.on_epoch_end()


def _of_one_size(generator, size, fill):
    for batch in generator:
        found = _size(batches.inputs_of(batch))
        if fill:
            yield (_filled_arrays(batch, size),)
            continue
        if found != size:
            raise ValueError(
                f"Expected batches of one size: the loss divides by the global batch. Received: {found} examples where "
                f"the first batch had {size}. Leave smaller batches out of the generator."
            )
        yield batch if isinstance(batch, tuple) else (batch,)


def _looked_at(dataset, vocab_size):
    """Returns the same data set, but the first batch of an iteration raises an error if its values are out of range.

    This uses a scan. Taking a batch out beforehand would start the pipeline twice and change its state.
    """

    def look(element):
        checks = []
        with contextlib.suppress(ValueError):  # tracing the step reports an element that is not a batch
            batch = batches.inputs_of(element)
            images, text = batch.get("image"), batch.get("text")
            if isinstance(images, tf.Tensor) and images.dtype.is_floating:
                largest = batches.largest_pixel(images)
                mark = tf.constant(f"{_MARK} pixel 0")
                checks.append(tf.debugging.Assert(largest <= batches.LARGEST_PIXEL, [mark, largest]))
            if isinstance(text, tf.Tensor) and text.dtype.is_integer:
                value = batches.farthest_id(text, vocab_size)
                mark = tf.constant(f"{_MARK} id {vocab_size}")
                checks.append(tf.debugging.Assert((value >= 0) & (value < vocab_size), [mark, value]))
            group = batch.get("group")
            if isinstance(group, tf.Tensor) and group.dtype.is_integer:
                value = tf.reduce_min(tf.cast(group, tf.int64))
                checks.append(tf.debugging.Assert(value >= 0, [tf.constant(f"{_MARK} group 0"), value]))
        with tf.control_dependencies([check for check in checks if check is not None]):
            return tf.constant(False)

    @_as_written
    def step(is_first, element):
        return tf.cond(is_first, lambda: look(element), lambda: tf.constant(False)), element

    return dataset.scan(tf.constant(True), step)
