"""The sigmoid loss (Algorithm 1) with gradients in closed form: one pass, nothing kept for the backward pass.

With z = 1 for a positive pair and -1 for a negative one, logit = t * x.y + b and n the global batch,

    loss = sum softplus(-z * logit) / n,    d loss / d logit = -z * sigmoid(-z * logit) / n.

The positives are n dot products, done apart: beside their large terms float32 loses the many small negatives. The
negatives are visited by tiles. The gradient of log t needs no pass of its own: it is sum_i x_i . d loss / d x_i.
"""

import tensorflow as tf

from siglip_tf.distribution import Ring, current_ring
from siglip_tf.losses.inputs import as_embeddings, as_scalar, check_tile_size
from siglip_tf.losses.logits import negative_logits
from siglip_tf.losses.negatives import Negatives, weigh
from siglip_tf.losses.result import LossResult, differentiable
from siglip_tf.losses.ring_pass import ring_pass
from siglip_tf.losses.summation import total
from siglip_tf.losses.tiling import Total, automatic_tile_size


def sigmoid_loss(
    image_embeddings: tf.Tensor,
    text_embeddings: tf.Tensor,
    log_temperature: tf.Tensor,
    bias: tf.Tensor,
    tile_size: int | None = None,
) -> tf.Tensor:
    """The sigmoid loss of a batch of pairs, and of the global batch inside `strategy.run`.

    Args:
        image_embeddings: (batch, dim) l2-normalised, as `SigLIP.encode_image` returns them.
        text_embeddings: (batch, dim) l2-normalised; row i is the text of image i.
        log_temperature: scalar t'; logits are exp(t') * x.y + b.
        bias: scalar b.
        tile_size: rows and columns of the largest matrix of logits that ever exists; None chooses.

    Returns:
        Scalar: -sum_ij log_sigmoid(z_ij * logit_ij) / n. On one of D replicas it is this replica's share: the shares,
        and likewise the gradients of weights behind them, add up to those of the global batch. Computed and returned
        in float32 (float64 for float64 embeddings). Differentiable once in all four arguments.

    Raises:
        ValueError: for a wrong rank, dtype, unequal or unknown batch sizes, or an unknown strategy.

    Source: Algorithm 1 and section 3.3 of the paper.
    """
    check_tile_size(tile_size)
    images, texts = as_embeddings(image_embeddings, text_embeddings)
    log_temperature = as_scalar("log_temperature", log_temperature, images.dtype)
    bias = as_scalar("bias", bias, images.dtype)
    ring = current_ring()

    def evaluate(images, texts, log_temperature, bias):
        return sigmoid_loss_and_gradients(ring, images, texts, log_temperature, bias, tile_size)

    return differentiable(evaluate, ring)(images, texts, log_temperature, bias)


def sigmoid_loss_and_gradients(
    ring: Ring,
    images: tf.Tensor,
    texts: tf.Tensor,
    log_temperature: tf.Tensor,
    bias: tf.Tensor,
    tile_size: int | None = None,
    negatives: Negatives | None = None,
    seed: tf.Tensor | int = 0,
    frozen_images: bool = False,
    gradients: bool = True,
) -> LossResult:
    """Loss and all gradients in one pass round the ring.

    Args:
        ring: the replicas.
        images: (b, d) l2-normalised embeddings of this replica, float32 or float64.
        texts: (b, d), likewise.
        log_temperature: scalar.
        bias: scalar.
        tile_size: rows and columns of a tile; None chooses.
        negatives: which negatives count (section 4.8); None for all of them.
        seed: int32 scalar for randomly chosen negatives.
        frozen_images: True leaves out the gradient of the images, a third of the matmuls (SigLiT).
        gradients: False computes the loss alone, at a third of the cost.

    Returns:
        This replica's part; see `LossResult`.
    """
    b, d = images.shape
    n = b * ring.size
    tile_size = tile_size or automatic_tile_size(b)
    temperature = tf.exp(log_temperature)
    scaled_images = temperature * images

    def logits_of(scaled_images, texts, diagonal):
        return negative_logits(scaled_images, texts, diagonal, bias)

    extra_images, extra_texts, weights_of = weigh(
        negatives, ring, scaled_images, texts, logits_of, tile_size=tile_size, seed=seed
    )

    def tile(images, texts, diagonal):
        scaled_images, *extra_images = images
        texts, *extra_texts = texts
        logits = logits_of(scaled_images, texts, diagonal)
        losses = tf.nn.softplus(logits)
        weights = weights_of(logits, extra_images, extra_texts)
        if weights is not None:
            losses *= weights
        if not gradients:
            return [tf.reduce_sum(losses, 1)], []
        slopes = tf.sigmoid(logits)
        if weights is not None:
            slopes *= weights
        to_images = [tf.reduce_sum(losses, 1), tf.reduce_sum(slopes, 1)]
        if not frozen_images:
            to_images.append(tf.matmul(slopes, texts))
        return to_images, [tf.matmul(slopes, scaled_images, transpose_a=True)]

    image_sums, text_sums = ring_pass(
        ring,
        [scaled_images, *extra_images],
        [texts, *extra_texts],
        ([Total(), Total()] + [Total((d,))] * (not frozen_images)) if gradients else [Total()],
        [Total((d,))] if gradients else [],
        tile,
        tile_size,
    )
    positive_logits = tf.reduce_sum(scaled_images * texts, 1) + bias
    loss = (total(tf.nn.softplus(-positive_logits)) + total(image_sums[0])) / n
    if not gradients:
        return LossResult(loss, positive_logits)

    positive_slopes = tf.sigmoid(-positive_logits)
    text_gradient = (text_sums[0] - positive_slopes[:, None] * scaled_images) / n
    image_gradient = None
    if not frozen_images:
        image_gradient = (temperature / n) * (image_sums[2] - positive_slopes[:, None] * texts)
    return LossResult(
        loss,
        positive_logits,
        image_gradient,
        text_gradient,
        # The logits are bilinear, so either side gives the gradient of log t.
        total(tf.reduce_sum(texts * text_gradient if frozen_images else images * image_gradient, 1)),
        (total(image_sums[1]) - total(positive_slopes)) / n,
    )
