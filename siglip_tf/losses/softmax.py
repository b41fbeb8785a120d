"""The softmax baseline (section 3.1), both directions normalised, tiled and round the same ring.

Two passes, since a softmax needs its normaliser first: the first gathers log-sum-exp of every row and column online,
the second the gradients. The sigmoid loss needs one: that is the paper's point, measured against this.
"""

import tensorflow as tf

from siglip_tf.distribution import Ring, current_ring
from siglip_tf.losses.inputs import as_embeddings, as_scalar, check_tile_size
from siglip_tf.losses.logits import NOT_A_NEGATIVE, negative_logits
from siglip_tf.losses.result import LossResult, differentiable
from siglip_tf.losses.ring_pass import ring_pass
from siglip_tf.losses.summation import total
from siglip_tf.losses.tiling import Total, automatic_tile_size


def softmax_loss(
    image_embeddings: tf.Tensor,
    text_embeddings: tf.Tensor,
    log_temperature: tf.Tensor,
    tile_size: int | None = None,
) -> tf.Tensor:
    """The softmax contrastive loss, mean of both directions, of a batch or of the global batch inside `strategy.run`.

    Args:
        image_embeddings: (batch, dim) l2-normalised, as `SigLIP.encode_image` returns them.
        text_embeddings: (batch, dim) l2-normalised; row i is the text of image i.
        log_temperature: scalar t'; logits are exp(t') * x.y.
        tile_size: rows and columns of the largest matrix of logits that ever exists; None chooses.

    Returns:
        Scalar in float32 (float64 for float64 embeddings); on one of D replicas this replica's share.

    Raises:
        ValueError: as `sigmoid_loss`.

    Source: the equation of section 3.1 of the paper.
    """
    check_tile_size(tile_size)
    images, texts = as_embeddings(image_embeddings, text_embeddings)
    log_temperature = as_scalar("log_temperature", log_temperature, images.dtype)
    ring = current_ring()

    def evaluate(images, texts, log_temperature):
        return softmax_loss_and_gradients(ring, images, texts, log_temperature, tile_size)

    return differentiable(evaluate, ring)(images, texts, log_temperature)


def softmax_loss_and_gradients(
    ring: Ring,
    images: tf.Tensor,
    texts: tf.Tensor,
    log_temperature: tf.Tensor,
    tile_size: int | None = None,
    frozen_images: bool = False,
    gradients: bool = True,
) -> LossResult:
    """Loss and gradients in two passes round the ring; arguments and result as `sigmoid_loss_and_gradients`."""
    b, d = images.shape
    n = b * ring.size
    tile_size = tile_size or automatic_tile_size(b)
    temperature = tf.exp(log_temperature)
    scaled_images = temperature * images
    normaliser = Total((), NOT_A_NEGATIVE, _log_add)

    def normalise_tile(images, texts, diagonal):
        logits = negative_logits(*images, *texts, diagonal, None)
        return [tf.reduce_logsumexp(logits, 1)], [tf.reduce_logsumexp(logits, 0)]

    (row_negatives,), (column_negatives,) = ring_pass(
        ring, [scaled_images], [texts], [normaliser], [normaliser], normalise_tile, tile_size
    )
    # log-sum-exp of a row less its positive, without the cancellation: log(1 + exp(negatives - positive)).
    positive_logits = tf.reduce_sum(scaled_images * texts, 1)
    row_margins, column_margins = row_negatives - positive_logits, column_negatives - positive_logits
    loss = total(0.5 * (tf.nn.softplus(row_margins) + tf.nn.softplus(column_margins))) / n
    if not gradients:
        return LossResult(loss, positive_logits)

    def gradient_tile(images, texts, diagonal):
        scaled_images, row_normalisers = images
        texts, column_normalisers = texts
        logits = negative_logits(scaled_images, texts, diagonal, None)
        slopes = 0.5 * (tf.exp(logits - row_normalisers[:, None]) + tf.exp(logits - column_normalisers[None, :]))
        to_images = [] if frozen_images else [tf.matmul(slopes, texts)]
        return to_images, [tf.matmul(slopes, scaled_images, transpose_a=True)]

    image_sums, (text_sums,) = ring_pass(
        ring,
        [scaled_images, _log_add(row_negatives, positive_logits)],
        [texts, _log_add(column_negatives, positive_logits)],
        [Total((d,))] * (not frozen_images),
        [Total((d,))],
        gradient_tile,
        tile_size,
    )
    positive_slopes = 0.5 * (tf.sigmoid(row_margins) + tf.sigmoid(column_margins))[:, None]
    text_gradient = (text_sums - positive_slopes * scaled_images) / n
    image_gradient = None
    if not frozen_images:
        image_gradient = (temperature / n) * (image_sums[0] - positive_slopes * texts)
    return LossResult(
        loss,
        positive_logits,
        image_gradient,
        text_gradient,
        total(tf.reduce_sum(texts * text_gradient if frozen_images else images * image_gradient, 1)),
    )


def _log_add(a, b):
    """log(exp(a) + exp(b)); stable, and right where one of them is the empty sum."""
    return tf.maximum(a, b) + tf.math.log1p(tf.exp(-tf.abs(a - b)))
