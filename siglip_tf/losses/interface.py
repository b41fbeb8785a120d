"""What every loss takes and gives: checked inputs, one result of loss and gradients, and a differentiable function."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import tensorflow as tf

from siglip_tf.distribution import Ring, SingleDevice
from siglip_tf.losses.numerics import PRECISIONS

# Traces that eager calls keep. An eager loop over more shapes than this traces the oldest anew.
_KEPT_TRACES = 32


@dataclasses.dataclass(frozen=True)
class LossResult:
    """One replica's part of a loss over the global batch.

    Attributes:
        loss: scalar; the shares of all replicas add up to the loss.
        positive_logits: (b,) logits of each image with its own text.
        image_gradient: (b, d) whole gradient of the loss in this replica's image embeddings, or None if not asked for.
        text_gradient: (b, d) likewise for its texts.
        log_temperature_gradient: scalar share.
        bias_gradient: scalar share; None where the loss has no bias.
        pair_sums: of other pairs that are no negatives, None where there is no label: {"positive_pairs": how many are
            positives, "positive_pair_logits": the sum of their logits, "ignored_pairs" and "ignored_pair_logits":
            likewise for those that are left out}; scalar shares.
    """

    loss: tf.Tensor
    positive_logits: tf.Tensor
    image_gradient: tf.Tensor | None = None
    text_gradient: tf.Tensor | None = None
    log_temperature_gradient: tf.Tensor | None = None
    bias_gradient: tf.Tensor | None = None
    pair_sums: dict[str, tf.Tensor] | None = None

    def gradients(self) -> list[tf.Tensor]:
        """Gradients of images, texts, log temperature and, where there is one, bias."""
        found = [self.image_gradient, self.text_gradient, self.log_temperature_gradient, self.bias_gradient]
        return [gradient for gradient in found if gradient is not None]


def differentiable_loss(
    evaluate: Callable[..., LossResult], ring: Ring, inputs: Sequence[tf.Tensor], keys: Sequence[tf.Tensor], **options
) -> tf.Tensor:
    """The loss as a scalar whose gradient is the stored result times the upstream gradient: no second pass.

    Args:
        evaluate: (ring, inputs, keys, **options) -> the result, with one gradient for each of `inputs`.
        ring: the replicas.
        inputs: float tensors that the loss depends on.
        keys: integer tensors that say which pairs are alike.
        **options: hashable settings of `evaluate`.
    """

    if tf.executing_eagerly() and ring.size == 1:
        # Thousands of tiles one by one from Python would be slow. A merge call may not stand in a nested function.
        signature = tuple((tuple(t.shape), t.dtype) for t in (*inputs, *keys))
        trace = _trace(evaluate, len(inputs), tuple(sorted(options.items())), signature)

        # A tape that saw the call would build the backward pass of the whole graph, which nobody asks for.
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
    """`evaluate` from tensors to tensors: the loss, then its gradients."""

    def flat(*tensors):
        result = evaluate(ring, tensors[:count], tensors[count:], **options)
        return [result.loss, *result.gradients()]

    return flat


@functools.lru_cache(maxsize=_KEPT_TRACES)
def _trace(evaluate, count, options, signature):
    """`_flat` of one device as a graph for inputs of one signature, traced once and dropped when others replace it."""
    flat = tf.function(_flat(evaluate, SingleDevice(), count, dict(options)), autograph=False)
    with tf.device(None):  # The graph runs on the device of its caller.
        return flat.get_concrete_function(*[tf.TensorSpec(shape, dtype) for shape, dtype in signature])


def as_embeddings(image_embeddings, text_embeddings) -> tuple[tf.Tensor, tf.Tensor]:
    """Both sides as float tensors (b, d) of one static shape.

    Half precision becomes float32: bfloat16 cannot hold the logits (log_sigmoid(0) is -0.691 there).

    Raises:
        ValueError: for another rank, a dtype that is not floating, an unknown batch size or unequal shapes.
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
            "Expected as many images as texts, of one embedding size. Received: image_embeddings "
            f"{images.shape} {images.dtype.name}, text_embeddings {texts.shape} {texts.dtype.name}."
        )
    if images.shape[0] == 0:
        raise ValueError(f"Expected at least one pair. Received: a batch of shape {images.shape}.")
    return images, texts


def as_scalar(name: str, value, dtype: tf.DType) -> tf.Tensor:
    """A scalar of `dtype`; raises ValueError for anything of more than one element."""
    value = tf.cast(tf.convert_to_tensor(value), dtype)
    if value.shape.num_elements() != 1:
        raise ValueError(f"Expected {name} to be a scalar. Received: shape {value.shape}.")
    return tf.reshape(value, ())


def check_tile_size(tile_size: int | None) -> None:
    """Raises ValueError unless `tile_size` is None or a positive integer."""
    whole = isinstance(tile_size, int) and not isinstance(tile_size, bool)
    if tile_size is not None and (not whole or tile_size < 1):
        raise ValueError(f"Expected tile_size to be None (automatic) or a positive integer. Received: {tile_size!r}.")


def check_precision(precision: str) -> None:
    """Raises ValueError unless `precision` is one of `PRECISIONS`."""
    if precision not in PRECISIONS:
        raise ValueError(f"Expected precision to be one of {', '.join(PRECISIONS)}. Received: {precision!r}.")
