"""The metrics of a training step: mean logits, norms by tower, and means over an epoch."""

from collections.abc import Mapping, Sequence

import keras
import tensorflow as tf

from siglip_tf.distribution import Ring
from siglip_tf.losses import LossResult, PairLabels

_LARGEST_NUMBER_OF_METRICS = 32


class StepMeans(keras.metrics.Metric):
    """Means over an epoch of all values that the training step returns, for `History` and callbacks.

    One vector holds all values, so that a step needs only two assignments. It is not part of a saved model.
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
        """Saves nothing, because the means start again with every epoch."""

    def load_own_variables(self, store):
        """Loads nothing. See `save_own_variables`."""


def loss_metrics(
    ring: Ring,
    result: LossResult,
    images: tf.Tensor,
    texts: tf.Tensor,
    temperature: tf.Tensor,
    bias: tf.Tensor | None,
    labels: PairLabels | None = None,
) -> dict[str, tf.Tensor]:
    """Returns the loss, the temperature, the bias, and the mean logits of positive and negative pairs.

    All values are for the global batch. The mean logits need no matrix of logits, because the sum of all logits is the
    product of the sums of embeddings.

    Args:
        ring: the replicas.
        result: this replica's result of the loss.
        images: this replica's image embeddings (b, embed_dim).
        texts: this replica's text embeddings (b, embed_dim).
        temperature: the scalar t.
        bias: the scalar b, or None for a loss without bias.
        labels: the labels of the pairs, if the batch contains padding.

    Returns:
        Scalars that are equal on all replicas. If pairs have labels (groups, equal captions), they include the number
        of further positive pairs and the number of ignored pairs. Pairs with padding count as ignored.
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
    """Returns the global norm, and the norms of the towers that have any of the variables.

    Args:
        what: the name of the quantity, such as "gradient".
        variables: the variables.
        squares: the sum of squares of the quantity for each variable.
        towers: the towers, or None for a tower that the model does not have.
    """
    found = {f"{what}_norm": tf.sqrt(tf.add_n(list(squares)))}
    for tower in towers:
        if tower is None:
            continue
        ids = {id(v) for v in tower.weights}
        own = [s for s, v in zip(squares, variables, strict=True) if id(v) in ids]
        if own:
            found[f"{tower.name}_{what}_norm"] = tf.sqrt(tf.add_n(own))
    return found
