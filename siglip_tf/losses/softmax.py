"""The softmax baseline (section 3.1) with gradients in closed form, tiled and around the ring like the sigmoid loss.

    loss = mean over pairs of (log-sum-exp of the row + log-sum-exp of the column) / 2 - logit of the pair.

Softmax needs two passes: the first accumulates the log-sum-exp of every row and column online, and the second computes
the gradients. The sigmoid loss needs one pass, which is a main point of the paper.

If other pairs are positives, too (`pair_labels`), the target is uniform over all positives of the row, and of the
column: the logit of the pair becomes their mean. Ignored pairs do not count in any log-sum-exp.
"""

import tensorflow as tf

from siglip_tf.distribution import Ring, current_ring
from siglip_tf.losses.all_pairs import Total, automatic_tile_size, visit_all_pairs
from siglip_tf.losses.interface import (
    LossResult,
    as_embeddings,
    as_scalar,
    check_precision,
    check_tile_size,
    differentiable_loss,
)
from siglip_tf.losses.numerics import NOT_A_NEGATIVE, matmul, tile_logits, total
from siglip_tf.losses.pair_labels import PAIR_SUMS, PairLabels, pair_labels, pair_sums


def softmax_loss(
    image_embeddings: tf.Tensor,
    text_embeddings: tf.Tensor,
    log_temperature: tf.Tensor,
    tile_size: int | None = None,
    *,
    group: tf.Tensor | None = None,
    same_group: str = "positive",
    token_ids: tf.Tensor | None = None,
    equal_captions: str = "ignore",
    precision: str = "float32",
) -> tf.Tensor:
    """Computes the softmax contrastive loss of a batch or, inside `strategy.run`, of the global batch.

    The loss is the mean over both directions, images to texts and texts to images.

    Args:
        image_embeddings: (batch, dim) l2-normalized, as `SigLIP.encode_image` returns them.
        text_embeddings: (batch, dim) l2-normalized; row i is the text of image i.
        log_temperature: scalar t'; logits are exp(t') * x.y.
        tile_size: number of rows and columns of the largest matrix of logits that ever exists. None chooses.
        group, same_group, token_ids, equal_captions, precision: see `sigmoid_loss`.

    Returns:
        Scalar in float32 (float64 for float64 embeddings). On one of D replicas it is this replica's share.

    Raises:
        ValueError: see `sigmoid_loss`.

    Source: the equation of section 3.1 of the paper.
    """
    check_tile_size(tile_size)
    check_precision(precision)
    images, texts = as_embeddings(image_embeddings, text_embeddings)
    labels = pair_labels(group, same_group, token_ids, equal_captions, images.shape[0])
    log_temperature = as_scalar("log_temperature", log_temperature, images.dtype)
    options = {"tile_size": tile_size, "precision": precision, "choices": labels.choices}
    return differentiable_loss(_evaluate, current_ring(), [images, texts, log_temperature], labels.keys, **options)


def _evaluate(ring, inputs, keys, choices, **options):
    return softmax_loss_and_gradients(ring, *inputs, labels=PairLabels(tuple(keys), choices), **options)


def softmax_loss_and_gradients(
    ring: Ring,
    images: tf.Tensor,
    texts: tf.Tensor,
    log_temperature: tf.Tensor,
    tile_size: int | None = None,
    frozen_images: bool = False,
    gradients: bool = True,
    labels: PairLabels | None = None,
    precision: str = "float32",
) -> LossResult:
    """Computes the loss and its gradients in two passes around the ring.

    See `sigmoid_loss_and_gradients` for the arguments and the result.
    """
    b, d = images.shape
    tile_size = tile_size or automatic_tile_size(b)
    labels = labels or PairLabels()
    n = labels.count(ring, b, images.dtype)
    temperature = tf.exp(log_temperature)
    scaled_images = temperature * images
    normalizer = Total((), NOT_A_NEGATIVE, _log_add)

    def logits_of(scaled_images, texts, diagonal, image_keys, text_keys):
        """Returns the logits with `NOT_A_NEGATIVE` for ignored pairs, the plain logits, and both masks."""
        logits = tile_logits(scaled_images, texts, diagonal, None, precision)
        if not labels:
            return logits, logits, None, None
        positive, ignored = labels.of_tile(image_keys, text_keys, diagonal)
        kept = tf.where(ignored, tf.cast(NOT_A_NEGATIVE, logits.dtype), logits)
        return kept, logits, positive, ignored

    def normalizer_tile(images, texts, diagonal):
        scaled_images, *image_keys = images
        texts, *text_keys = texts
        kept, logits, positive, ignored = logits_of(scaled_images, texts, diagonal, image_keys, text_keys)
        to_images, to_texts = [tf.reduce_logsumexp(kept, 1)], [tf.reduce_logsumexp(kept, 0)]
        if labels:
            to_images += pair_sums(positive, ignored, logits)
            to_texts += [tf.reduce_sum(tf.where(positive, logits, tf.zeros((), logits.dtype)), 0)]
        return to_images, to_texts

    (row_others, *of_images), (column_others, *of_texts) = visit_all_pairs(
        ring,
        [scaled_images, *labels.keys],
        [texts, *labels.keys],
        [normalizer] + [Total()] * (len(PAIR_SUMS) if labels else 0),
        [normalizer] + [Total()] * bool(labels),
        normalizer_tile,
        tile_size,
    )
    own_logits = tf.reduce_sum(scaled_images * texts, 1)
    # The log-sum-exp of a row minus its own logit, without cancellation: log(1 + exp(others - own)).
    row_margins, column_margins = row_others - own_logits, column_others - own_logits
    losses = 0.5 * (tf.nn.softplus(row_margins) + tf.nn.softplus(column_margins))
    positives, pairs = tf.ones_like(own_logits), None
    if labels:
        # Positives are symmetric: image i has as many positives as text i.
        positives += of_images[0]
        losses += own_logits - (own_logits + 0.5 * (of_images[1] + of_texts[0])) / positives
        pairs = {name: total(values) for name, values in zip(PAIR_SUMS, of_images, strict=True)}
    loss = total(labels.of_examples(losses)) / n
    if not gradients:
        return LossResult(loss, own_logits, pair_sums=pairs)

    def gradient_tile(images, texts, diagonal):
        scaled_images, row_normalizers, of_images, *image_keys = images
        texts, column_normalizers, of_texts, *text_keys = texts
        kept, _, positive, _ = logits_of(scaled_images, texts, diagonal, image_keys, text_keys)
        slopes = 0.5 * (tf.exp(kept - row_normalizers[:, None]) + tf.exp(kept - column_normalizers[None, :]))
        if labels:
            targets = 0.5 * (1 / of_images[:, None] + 1 / of_texts[None, :])
            slopes -= tf.where(positive, targets, tf.zeros((), targets.dtype))
        to_images = [] if frozen_images else [matmul(slopes, texts, precision)]
        return to_images, [matmul(slopes, scaled_images, precision, transpose_a=True)]

    image_sums, (text_sums,) = visit_all_pairs(
        ring,
        [scaled_images, _log_add(row_others, own_logits), positives, *labels.keys],
        [texts, _log_add(column_others, own_logits), positives, *labels.keys],
        [Total((d,))] * (not frozen_images),
        [Total((d,))],
        gradient_tile,
        tile_size,
    )
    # This is 1 / positives minus the pair's own share of its row and of its column.
    own_slopes = (0.5 * (tf.sigmoid(row_margins) + tf.sigmoid(column_margins)) - (1 - 1 / positives))[:, None]
    text_gradient = (text_sums - own_slopes * scaled_images) / n
    image_gradient = None
    if not frozen_images:
        image_gradient = (temperature / n) * (image_sums[0] - own_slopes * texts)
    return LossResult(
        loss,
        own_logits,
        image_gradient,
        text_gradient,
        total(tf.reduce_sum(texts * text_gradient if frozen_images else images * image_gradient, 1)),
        pair_sums=pairs,
    )


def _log_add(a, b):
    """Returns log(exp(a) + exp(b)). It is stable, and correct if one of them is the empty sum."""
    return tf.maximum(a, b) + tf.math.log1p(tf.exp(-tf.abs(a - b)))
