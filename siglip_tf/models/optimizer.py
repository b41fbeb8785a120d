"""Checks that an optimizer suits a contrastive loss, and applies gradients that are summed over replicas already."""

from collections.abc import Sequence

import keras
import tensorflow as tf

from siglip_tf.optimizers import ReferenceChain, freeze
from siglip_tf.primitives.stacking import sums_of_squares
from siglip_tf.primitives.tensorflow_internals import (
    gradients_already_summed,
    strategy_of_optimizer,
    variables_of_optimizer,
)


def prepare_optimizer(model: keras.Model, optimizer: keras.optimizers.Optimizer) -> None:
    """Checks an optimizer that was passed to `compile`, freezes the weights of its frozen groups, and builds it.

    Raises:
        ValueError: if an option is wrong for a contrastive loss, or the optimizer belongs to another strategy, or it
            was built when other weights were trainable.
    """
    strategy = model.distribute_strategy
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    if optimizer is not inner and strategy.num_replicas_in_sync > 1:
        raise ValueError(
            "Expected no loss scaling under a strategy. Received: LossScaleOptimizer. Use the dtype policy "
            "'mixed_bfloat16' instead of 'mixed_float16'."
        )
    if inner.gradient_accumulation_steps:
        raise ValueError(
            "Expected no gradient accumulation: it adds up losses of small batches, which is another loss. "
            f"Received: gradient_accumulation_steps={inner.gradient_accumulation_steps}. Use "
            "SigLIP(microbatch_size=...), whose gradient is that of the whole batch."
        )
    if inner.use_ema and inner.ema_overwrite_frequency and strategy.num_replicas_in_sync > 1:
        raise ValueError(
            "Expected ema_overwrite_frequency=None under a strategy, where Keras fails. Received: "
            f"{inner.ema_overwrite_frequency}."
        )
    made_under = strategy_of_optimizer(inner)
    if made_under is not strategy:
        raise ValueError(
            f"Expected an optimizer made inside `strategy.scope()` of the model's {type(strategy).__name__}. "
            f"Received: one made under {type(made_under).__name__}."
        )
    freeze(model, getattr(inner, "groups", ()))
    if not optimizer.built:
        optimizer.build(model.trainable_variables)
    check_knows(inner, model.trainable_variables)


def check_knows(optimizer: keras.optimizers.Optimizer, variables: Sequence[keras.Variable]) -> None:
    """Raises a ValueError if the optimizer cannot update some of the variables."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    known = set(map(id, variables_of_optimizer(inner)))
    unknown = [variable.path for variable in variables if id(variable) not in known]
    if unknown:
        raise ValueError(
            f"Expected an optimizer that was built for all trainable weights. Received: one that does not know "
            f"{len(unknown)} of {len(variables)}, such as {unknown[0]}. Compile again with a new optimizer after "
            "weights are made trainable or adapters are added."
        )


def apply(
    optimizer: keras.optimizers.Optimizer,
    gradients: Sequence[tf.Tensor],
    variables: Sequence[keras.Variable],
    stacked: bool,
) -> list[tf.Tensor]:
    """Updates the variables with gradients of the global batch. The optimizer clips them but does not sum them again.

    Args:
        optimizer: an optimizer that is built for the variables.
        gradients: the gradients summed over replicas, one per variable.
        variables: the variables to update.
        stacked: whether to compute the sums of squares of equal shapes together. See `sums_of_squares`.

    Returns:
        The sum of squares of each variable's update, as float32 scalars.
    """
    tells = isinstance(optimizer, ReferenceChain)  # it reports its update; others need a copy of all weights
    before = [] if tells else [tf.convert_to_tensor(v.value) for v in variables]
    with gradients_already_summed(getattr(optimizer, "inner_optimizer", optimizer)):
        optimizer.apply(list(gradients), list(variables))
    if tells:
        squares = tf.unstack(tf.convert_to_tensor(optimizer.update_sum_of_squares.value))
        place = {id(v): i for i, v in enumerate(variables_of_optimizer(optimizer))}
        return [squares[place[id(v)]] for v in variables]
    changes = [tf.convert_to_tensor(v.value) - old for v, old in zip(variables, before, strict=True)]
    return sums_of_squares(changes, stacked)
