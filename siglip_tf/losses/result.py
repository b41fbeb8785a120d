"""What one pass round the ring gives, and how it becomes a differentiable loss."""

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from siglip_tf.distribution import Ring


@dataclasses.dataclass(frozen=True)
class LossResult:
    """One replica's part of a loss over the global batch.

    Attributes:
        loss: scalar; the shares of all replicas add up to the loss.
        positive_logits: (b,) logits of the matching pairs.
        image_gradient: (b, d) whole gradient of the loss in this replica's image embeddings, or None if not asked for.
        text_gradient: (b, d) likewise for its texts.
        log_temperature_gradient: scalar share.
        bias_gradient: scalar share; None where the loss has no bias.
    """

    loss: tf.Tensor
    positive_logits: tf.Tensor
    image_gradient: tf.Tensor | None = None
    text_gradient: tf.Tensor | None = None
    log_temperature_gradient: tf.Tensor | None = None
    bias_gradient: tf.Tensor | None = None

    def gradients(self) -> list[tf.Tensor]:
        """Gradients of images, texts, log temperature and, where there is one, bias."""
        found = [self.image_gradient, self.text_gradient, self.log_temperature_gradient, self.bias_gradient]
        return [gradient for gradient in found if gradient is not None]


def differentiable(evaluate: Callable[..., LossResult], ring: Ring) -> Callable[..., tf.Tensor]:
    """`evaluate` as a function whose gradient is the stored result times the upstream gradient: no second pass."""

    def flat(*inputs):
        result = evaluate(*inputs)
        return [result.loss, *result.gradients()]

    if tf.executing_eagerly() and ring.size == 1:
        # Thousands of tiles one by one from Python would be slow; a merge call may not stand in a nested function.
        flat = tf.function(flat, autograph=False)

    @tf.custom_gradient
    def loss_of(*inputs):
        loss, *gradients = flat(*inputs)
        return loss, lambda upstream: [upstream * gradient for gradient in gradients]

    return loss_of
