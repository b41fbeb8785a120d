"""The sigmoid loss (Algorithm 1) with gradients in closed form, in one pass around the ring.

Let z = 1 for a positive pair and z = -1 for a negative pair, logit = t * x.y + b, and n the global batch size. Then

    loss = sum softplus(-z * logit) / n,    d loss / d logit = -z * sigmoid(-z * logit) / n.

The n images with their own texts are dot products, which are computed separately, because float32 would lose the many
small negatives next to their large terms. All other pairs are visited tile by tile. The gradient of log t follows from
the gradients of the images: it is sum_i x_i . d loss / d x_i.

Pairs that belong together although they are different examples (`pair_labels`) are positives with z = 1, or are left
out of the sum. In either case the sum is divided by n, as in Algorithm 1, and not by the number of positives.
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
from siglip_tf.losses.negatives import Negatives, weigh
from siglip_tf.losses.numerics import matmul, tile_logits, total
from siglip_tf.losses.pair_labels import PAIR_SUMS, PairLabels, pair_labels, pair_sums
from siglip_tf.primitives.compilation import target_device


def sigmoid_loss(
    image_embeddings: tf.Tensor,
    text_embeddings: tf.Tensor,
    log_temperature: tf.Tensor,
    bias: tf.Tensor,
    tile_size: int | None = None,
    *,
    group: tf.Tensor | None = None,
    same_group: str = "positive",
    token_ids: tf.Tensor | None = None,
    equal_captions: str = "ignore",
    precision: str = "float32",
) -> tf.Tensor:
    """Computes the sigmoid loss of a batch of pairs or, inside `strategy.run`, of the global batch.

    Args:
        image_embeddings: (batch, dim) l2-normalized, as `SigLIP.encode_image` returns them.
        text_embeddings: (batch, dim) l2-normalized; row i is the text of image i.
        log_temperature: scalar t'; logits are exp(t') * x.y + b.
        bias: scalar b.
        tile_size: number of rows and columns of the largest matrix of logits that ever exists. None chooses.
        group: integers (batch,), 0 or greater, the group of each pair; see `same_group`.
        same_group: what an image and the text of another pair of its group are: "positive", "ignore" (left out of the
            sum), or "negative".
        token_ids: integers (batch, length) of the texts; see `equal_captions`.
        equal_captions: what an image and the text of another pair with equal token ids are: "ignore", "positive", or
            "negative". If this and `same_group` disagree, the pair is a positive.
        precision: precision of the matrix products, "float32" or "bfloat16" (inputs rounded to bfloat16, sums in
            float32); see `siglip_tf.losses.numerics.matmul`.

    Returns:
        Scalar: -sum_ij log_sigmoid(z_ij * logit_ij) / n. On one of D replicas it is this replica's share. The shares
        add up to the loss of the global batch, and so do the gradients of the towers' weights. It is computed and
        returned in float32 (float64 for float64 embeddings), and differentiable once in the first four arguments.

    Raises:
        ValueError: a rank or dtype is wrong, batch sizes differ or are unknown, or an option or the strategy is
            unknown.

    Source: Algorithm 1 and section 3.3 of the paper.
    """
    check_tile_size(tile_size)
    check_precision(precision)
    images, texts = as_embeddings(image_embeddings, text_embeddings)
    labels = pair_labels(group, same_group, token_ids, equal_captions, images.shape[0])
    scalars = [as_scalar("log_temperature", log_temperature, images.dtype), as_scalar("bias", bias, images.dtype)]
    options = {"tile_size": tile_size, "precision": precision, "choices": labels.choices}
    return differentiable_loss(_evaluate, current_ring(), [images, texts, *scalars], labels.keys, **options)


def _evaluate(ring, inputs, keys, choices, **options):
    return sigmoid_loss_and_gradients(ring, *inputs, labels=PairLabels(tuple(keys), choices), **options)


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
    labels: PairLabels | None = None,
    precision: str = "float32",
) -> LossResult:
    """Computes the loss and all gradients in one pass around the ring.

    Args:
        ring: the replicas.
        images: (b, d), l2-normalized image embeddings of this replica, float32 or float64.
        texts: (b, d), l2-normalized text embeddings of the same dtype.
        log_temperature: scalar.
        bias: scalar.
        tile_size: number of rows and columns of a tile. None chooses.
        negatives: which negatives count (section 4.8). None counts all of them.
        seed: int32 scalar, the seed for randomly chosen negatives.
        frozen_images: True leaves out the gradient of the images, a third of the matmuls (SigLiT).
        gradients: False computes the loss alone, at a third of the cost.
        labels: pairs that are not negatives. None means that only an image and its own text are a positive.
        precision: precision of the matrix products; see `siglip_tf.losses.numerics.matmul`.

    Returns:
        This replica's part; see `LossResult`.
    """
    b, d = images.shape
    tile_size = tile_size or automatic_tile_size(b)
    labels = labels or PairLabels()
    n = labels.count(ring, b, images.dtype)
    temperature = tf.exp(log_temperature)
    scaled_images = temperature * images
    scale_by_tile = target_device() == "GPU"  # A copy of all images would be a third of the memory on a GPU.

    def logits_of(scaled_images, texts, diagonal):
        return tile_logits(scaled_images, texts, diagonal, bias, precision)

    extras, weights_of = weigh(
        negatives,
        ring,
        scaled_images,
        texts,
        logits_of,
        labels,
        largest=temperature + tf.abs(bias),
        tile_size=tile_size,
        seed=seed,
    )

    def tile(images, texts, diagonal):
        scaled_images, *image_extras = images
        if scale_by_tile:
            scaled_images = temperature * scaled_images
        texts, *text_extras = texts
        logits = logits_of(scaled_images, texts, diagonal)
        losses, slopes = tf.nn.softplus(logits), tf.sigmoid(logits)
        weights = weights_of(logits, image_extras, text_extras, diagonal)
        if weights is not None:
            losses, slopes = weights * losses, weights * slopes
        row_sums = [tf.reduce_sum(losses, 1), tf.reduce_sum(slopes, 1)]
        if labels:
            positive, ignored = labels.of_tile(image_extras, text_extras, diagonal)
            zero = tf.zeros((), logits.dtype)
            positive_losses = tf.where(positive, tf.nn.softplus(-logits), zero)
            positive_slopes = tf.where(positive, tf.sigmoid(-logits), zero)
            row_sums += [tf.reduce_sum(positive_losses, 1), tf.reduce_sum(positive_slopes, 1)]
            row_sums += pair_sums(positive, ignored, logits)
            slopes -= positive_slopes
        if not gradients:
            return row_sums, []
        to_images = [] if frozen_images else [matmul(slopes, texts, precision)]
        return row_sums + to_images, [matmul(slopes, scaled_images, precision, transpose_a=True)]

    row_totals = [Total()] * (4 + len(PAIR_SUMS) if labels else 2)
    image_sums, text_sums = visit_all_pairs(
        ring,
        [images if scale_by_tile else scaled_images, *extras],
        [texts, *extras],
        row_totals + [Total((d,))] * (gradients and not frozen_images),
        [Total((d,))] * gradients,
        tile,
        tile_size,
    )
    row_sums = [total(values) for values in image_sums[: len(row_totals)]]
    negative_loss, negative_slope, *of_labels = row_sums
    positive_loss, positive_slope, *of_pairs = of_labels or (0.0, 0.0)
    own_logits = tf.reduce_sum(scaled_images * texts, 1) + bias
    own_losses = labels.of_examples(tf.nn.softplus(-own_logits))
    loss = (total(own_losses) + positive_loss + negative_loss) / n
    pairs = dict(zip(PAIR_SUMS, of_pairs, strict=True)) if labels else None
    if not gradients:
        return LossResult(loss, own_logits, pair_sums=pairs)

    own_slopes = tf.sigmoid(-own_logits)
    text_gradient = (text_sums[0] - own_slopes[:, None] * scaled_images) / n
    image_gradient = None
    if not frozen_images:
        image_gradient = (temperature / n) * (image_sums[-1] - own_slopes[:, None] * texts)
    return LossResult(
        loss,
        own_logits,
        image_gradient,
        text_gradient,
        # The logits are bilinear, so either side gives the gradient of log t.
        total(tf.reduce_sum(texts * text_gradient if frozen_images else images * image_gradient, 1)),
        (negative_slope - positive_slope - total(own_slopes)) / n,
        pairs,
    )
