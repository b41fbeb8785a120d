"""What a training step reports beside its update: logits without a matrix, norms by tower, and means over an epoch."""

from collections.abc import Mapping, Sequence

import keras
import tensorflow as tf

from siglip_tf.distribution import Ring
from siglip_tf.losses import LossResult, PairLabels

_LARGEST_NUMBER_OF_METRICS = 32


class StepMeans(keras.metrics.Metric):
    """Means over an epoch of everything that the training step returns: what `History` and callbacks see.

    One vector in place of a metric for each value: two assignments a step. It is not part of a saved model.
    """

    def __init__(self, name: str = "step_means", **kwargs):
        super().__init__(name=name, **kwargs)
        self.names: tuple[str, ...] = ()
        self.total = self.add_variable((_LARGEST_NUMBER_OF_METRICS,), "zeros", dtype="float32", name="total")
        self.count = self.add_variable((), "zeros", dtype="float32", name="count")

    def update_state(self, scalars: Mapping[str, tf.Tensor]) -> None:
        self.names = tuple(scalars)
        values = [tf.cast(value, tf.float32) for value in scalars.values()]
        padding = [tf.zeros(())] * (_LARGEST_NUMBER_OF_METRICS - len(values))
        self.total.assign_add(tf.stack(values + padding))
        self.count.assign_add(1.0)

    def result(self) -> dict[str, tf.Tensor]:
        means = self.total / tf.maximum(tf.convert_to_tensor(self.count), 1.0)
        return {name: means[position] for position, name in enumerate(self.names)}

    def save_own_variables(self, store):
        """Nothing: an epoch's means begin anew."""

    def load_own_variables(self, store):
        """Nothing; see `save_own_variables`."""


def loss_metrics(
    ring: Ring,
    result: LossResult,
    images: tf.Tensor,
    texts: tf.Tensor,
    temperature: tf.Tensor,
    bias: tf.Tensor | None,
    labels: PairLabels | None = None,
) -> dict[str, tf.Tensor]:
    """Loss, temperature, bias and mean logits of positive and negative pairs of the global batch.

    The mean logits need no matrix: the sum of all logits is the product of the sums of embeddings.

    Args:
        ring: the replicas.
        result: of the loss, this replica's share.
        images: (b, embed_dim) of this replica; likewise `texts`.
        temperature: t, scalar.
        bias: b, scalar, or None for a loss without bias.
        labels: of the pairs, where rows that are no examples fill the batch.

    Returns:
        Scalars, equal on every replica. Where pairs have labels (groups, equal captions), also how many pairs of the
        global batch, beside an image and its own text, are positives and how many are left out. Pairs with a row that
        is no example are among the latter.
    """
    b = images.shape[0]
    n = b * ring.size
    labels = labels or PairLabels()
    examples = labels.count(ring, b, tf.float32)
    pairs = result.pair_sums or {}
    loss, positives, own_positives, image_sum, text_sum, *of_pairs = ring.sum(
        [
            result.loss,
            tf.reduce_sum(result.positive_logits),
            tf.reduce_sum(labels.of_examples(result.positive_logits)),
            tf.reduce_sum(images, 0),
            tf.reduce_sum(texts, 0),
            *pairs.values(),
        ]
    )
    all_pairs = temperature * tf.reduce_sum(image_sum * text_sum)
    metrics = {"loss": loss, "temperature": temperature}
    if bias is not None:
        metrics["bias"] = bias
        all_pairs += bias * float(n) ** 2
    if not pairs:
        return metrics | {
            "positive_logit": positives / n,
            "negative_logit": (all_pairs - positives) / float(max(n * (n - 1), 1)),
        }
    pairs = dict(zip(pairs, of_pairs, strict=True))
    negatives = float(n * (n - 1)) - pairs["positive_pairs"] - pairs["ignored_pairs"]
    positives += pairs["positive_pair_logits"]
    own_positives += pairs["positive_pair_logits"]
    return metrics | {
        "positive_logit": own_positives / (examples + pairs["positive_pairs"]),
        "negative_logit": (all_pairs - positives - pairs["ignored_pair_logits"]) / tf.maximum(negatives, 1.0),
        "positive_pairs": pairs["positive_pairs"],
        "ignored_pairs": pairs["ignored_pairs"],
    }


def norms(
    what: str,
    variables: Sequence[keras.Variable],
    squares: Sequence[tf.Tensor],
    towers: Sequence[keras.layers.Layer | None] = (),
) -> dict[str, tf.Tensor]:
    """The global norm from each variable's sum of squares, and the norm of each of `towers` that has variables here."""
    found = {f"{what}_norm": tf.sqrt(tf.add_n(list(squares)))}
    for tower in towers:
        if tower is None:
            continue
        ids = {id(v) for v in tower.weights}
        own = [s for s, v in zip(squares, variables, strict=True) if id(v) in ids]
        if own:
            found[f"{tower.name}_{what}_norm"] = tf.sqrt(tf.add_n(own))
    return found
