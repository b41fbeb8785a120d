"""The common interface of the losses: checked inputs, a result of loss and gradients, and a differentiable function."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import tensorflow as tf

from siglip_tf.distribution import Ring, SingleDevice
from siglip_tf.losses.numerics import PRECISIONS

# How many traces eager calls keep. An eager loop over more shapes than this traces the oldest ones again.
_KEPT_TRACES = 32


@dataclasses.dataclass(frozen=True)
class LossResult:
    """One replica's part of a loss over the global batch.

    Attributes:
        loss: scalar, this replica's share. The shares of all replicas add up to the loss.
        positive_logits: (b,), the logit of each image with its own text.
        image_gradient: (b, d), the whole gradient with respect to this replica's image embeddings, or None if it was
            not requested.
        text_gradient: (b, d), the same for the text embeddings.
        log_temperature_gradient: scalar, this replica's share.
        bias_gradient: scalar, this replica's share, or None if the loss has no bias.
        pair_sums: sums over the other pairs that are not negatives, or None without labels: {"positive_pairs": the
            number of positives, "positive_pair_logits": the sum of their logits, "ignored_pairs" and
            "ignored_pair_logits": the same for ignored pairs}. Scalars, this replica's shares.
    """

    loss: tf.Tensor
    positive_logits: tf.Tensor
    image_gradient: tf.Tensor | None = None
    text_gradient: tf.Tensor | None = None
    log_temperature_gradient: tf.Tensor | None = None
    bias_gradient: tf.Tensor | None = None
    pair_sums: dict[str, tf.Tensor] | None = None

    def gradients(self) -> list[tf.Tensor]:
        """Returns the gradients of images, texts, log temperature, and bias, without those that are None."""
        found = [self.image_gradient, self.text_gradient, self.log_temperature_gradient, self.bias_gradient]
        return [gradient for gradient in found if gradient is not None]


def differentiable_loss(
    evaluate: Callable[..., LossResult], ring: Ring, inputs: Sequence[tf.Tensor], keys: Sequence[tf.Tensor], **options
) -> tf.Tensor:
    """Returns the loss as a scalar whose backward pass reuses the stored gradients instead of computing them again.

    Args:
        evaluate: maps (ring, inputs, keys, **options) to a result with one gradient for each of `inputs`.
        ring: the replicas.
        inputs: float tensors that the loss depends on.
        keys: integer tensors; see `PairLabels.keys`.
        **options: hashable settings of `evaluate`.
    """

    if tf.executing_eagerly() and ring.size == 1:
        # Running thousands of tiles eagerly would be slow. With several replicas there is no trace, because a merge
        # call cannot be in a nested function.
        signature = tuple((tuple(t.shape), t.dtype) for t in (*inputs, *keys))
        trace = _trace(evaluate, len(inputs), tuple(sorted(options.items())), signature)

        # If a tape recorded the call, it would build the backward pass of the whole graph, which is not needed.
        def flat(*tensors):
            return trace(*[tf.stop_gradient(t) for t in tensors])
    else:
        flat = _flat(evaluate, ring, len(inputs), options)

    @tf.custom_gradient
    def loss_of(*tensors):
        loss, *gradients = flat(*tensors)
        return loss, lambda upstream: [upstream * gradient for gradient in gradients] + [None] * len(keys)

    return loss_of(*inputs, *keys)


def _flat(evaluate, ring, count, options):
    """Returns `evaluate` as a function from tensors to tensors: the loss, then its gradients."""

    def flat(*tensors):
        result = evaluate(ring, tensors[:count], tensors[count:], **options)
        return [result.loss, *result.gradients()]

    return flat


@functools.lru_cache(maxsize=_KEPT_TRACES)
def _trace(evaluate, count, options, signature):
    """Traces `_flat` for one device and one signature of inputs. The cache keeps the most recently used traces."""
    flat = tf.function(_flat(evaluate, SingleDevice(), count, dict(options)), autograph=False)
    with tf.device(None):  # The graph runs on the device of its caller.
        return flat.get_concrete_function(*[tf.TensorSpec(shape, dtype) for shape, dtype in signature])


def as_embeddings(image_embeddings, text_embeddings) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns both sides as float tensors (b, d) of the same static shape.

    Half precision becomes float32, because bfloat16 is too coarse for the logits (log_sigmoid(0) would be -0.691).

    Raises:
        ValueError: the rank is not 2, the dtype is not floating, the batch size is unknown, or the shapes differ.
    """
    sides = []
    for name, value in (("image_embeddings", image_embeddings), ("text_embeddings", text_embeddings)):
        value = tf.convert_to_tensor(value)
        if not value.dtype.is_floating:
            raise ValueError(f"Expected {name} of a floating dtype. Received: {value.dtype.name} {value.shape}.")
        if value.shape.rank != 2:
            raise ValueError(f"Expected {name} of shape (batch, dim). Received: {value.shape}.")
        if not value.shape.is_fully_defined():
            raise ValueError(
                f"Expected {name} with a static shape, since the loss divides by the global batch once. Received: "
                f"{value.shape}. Batch the data set with drop_remainder=True."
            )
        sides.append(value if value.dtype == tf.float64 else tf.cast(value, tf.float32))
    images, texts = sides
    if images.shape != texts.shape or images.dtype != texts.dtype:
        raise ValueError(
            "Expected as many images as texts, with the same embedding size. Received: image_embeddings "
            f"{images.shape} {images.dtype.name}, text_embeddings {texts.shape} {texts.dtype.name}."
        )
    if images.shape[0] == 0:
        raise ValueError(f"Expected at least one pair. Received: a batch of shape {images.shape}.")
    return images, texts


def as_scalar(name: str, value, dtype: tf.DType) -> tf.Tensor:
    """Returns a value as a scalar of `dtype`. Raises a ValueError unless it has exactly one element."""
    value = tf.cast(tf.convert_to_tensor(value), dtype)
    if value.shape.num_elements() != 1:
        raise ValueError(f"Expected {name} to be a scalar. Received: shape {value.shape}.")
    return tf.reshape(value, ())


def check_tile_size(tile_size: int | None) -> None:
    """Raises a ValueError unless `tile_size` is None or a positive integer."""
    whole = isinstance(tile_size, int) and not isinstance(tile_size, bool)
    if tile_size is not None and (not whole or tile_size < 1):
        raise ValueError(f"Expected tile_size to be None (automatic) or a positive integer. Received: {tile_size!r}.")


def check_precision(precision: str) -> None:
    """Raises a ValueError unless `precision` is one of `PRECISIONS`."""
    if precision not in PRECISIONS:
        raise ValueError(f"Expected precision to be one of {', '.join(PRECISIONS)}. Received: {precision!r}.")
