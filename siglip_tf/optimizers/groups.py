"""Parameter groups by name: learning rate multipliers, decay multipliers, and freezing."""

import contextlib
import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

import keras
import tensorflow as tf

KERNELS = r"(^|/)kernel$"


@dataclasses.dataclass(frozen=True)
class ParameterGroup:
    """How the variables whose path matches a pattern are trained.

    Args:
        pattern: regular expression, searched in `variable.path` (for `SigLIP`: `siglip/image/block_0/mlp/fc1/kernel`).
        learning_rate_multiplier: factor on the learning rate, > 0. Use `freeze` to stop a group.
        decay_multiplier: factor on weight decay, >= 0. Variables that the optimizer's `decay_pattern` does not match
            never decay.
        freeze: whether to freeze these variables. No gradient is computed for them; see `freeze`.

    Raises:
        ValueError: the pattern is not a regular expression, or a multiplier is out of range.
    """

    pattern: str
    learning_rate_multiplier: float = 1.0
    decay_multiplier: float = 1.0
    freeze: bool = False

    def __post_init__(self):
        compiled(self.pattern)
        if not self.learning_rate_multiplier > 0:
            raise ValueError(
                f"Expected learning_rate_multiplier > 0 for the group {self.pattern!r} (freeze=True stops a group). "
                f"Received: {self.learning_rate_multiplier}"
            )
        if not self.decay_multiplier >= 0:
            raise ValueError(
                f"Expected decay_multiplier >= 0 for the group {self.pattern!r}. Received: {self.decay_multiplier}"
            )

    def matches(self, path: str) -> bool:
        """Says whether the pattern occurs in a variable's path."""
        return compiled(self.pattern).search(path) is not None


def compiled(pattern: str) -> re.Pattern:
    """Compiles a pattern, or raises a ValueError that shows it."""
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(f"The pattern {pattern!r} is not a regular expression: {error}") from error


def parameter_groups(groups: Iterable[ParameterGroup | Mapping] | None) -> tuple[ParameterGroup, ...]:
    """Makes groups from `ParameterGroup`s or, as in a config, from mappings of their arguments."""
    return tuple(group if isinstance(group, ParameterGroup) else ParameterGroup(**group) for group in groups or ())


def group_of(path: str, groups: Sequence[ParameterGroup]) -> ParameterGroup:
    """Returns the first group that matches the path, or a group that changes nothing."""
    return next((group for group in groups if group.matches(path)), ParameterGroup(pattern=""))


def freeze(model: keras.Model, groups: Iterable[ParameterGroup | Mapping]) -> list[str]:
    """Makes every variable whose first matching group has `freeze` not trainable.

    `model.trainable_variables` then leaves these variables out, so that they have no gradient, no part in the clipping
    norm, and no optimizer state. Call it after the model is built and before the optimizer is built. Keras does not
    save this property with the model.

    Args:
        model: a built Keras model.
        groups: parameter groups. The first group that matches applies.

    Returns:
        The paths of the frozen variables.

    Raises:
        ValueError: the model is not built, a group with `freeze` matches nothing, or all variables would be frozen.
    """
    groups = parameter_groups(groups)
    if not model.built or not model.variables:
        raise ValueError(f"Build the model {model.name!r} before freezing variables by name: it has none yet.")
    check_all_match([v.path for v in model.variables], [group for group in groups if group.freeze])
    frozen = [v for v in model.trainable_variables if group_of(v.path, groups).freeze]
    if frozen and len(frozen) == len(model.trainable_variables):
        raise ValueError(
            f"The groups {[g.pattern for g in groups if g.freeze]} freeze every variable of {model.name!r}."
        )
    for variable in frozen:
        variable.trainable = False
    return [variable.path for variable in frozen]


@contextlib.contextmanager
def gradient_tape(variables: Iterable[keras.Variable]) -> Iterator[tf.GradientTape]:
    """Returns a gradient tape that watches these variables only, so that it does not differentiate frozen layers.

    A plain tape watches every `tf.Variable`, even with Keras' `trainable = False`. It would differentiate a frozen
    tower, too, and discard the result.

    Args:
        variables: the variables to differentiate with respect to, usually `model.trainable_variables`.
    """
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        for variable in variables:
            tape.watch(variable.value)
        yield tape


def check_all_match(paths: Sequence[str], groups: Iterable[ParameterGroup]) -> None:
    """Raises a ValueError if a group matches no path, which is almost always a misspelled pattern."""
    for group in groups:
        if not any(group.matches(path) for path in paths):
            shown = ", ".join(paths[:5])
            raise ValueError(
                f"The parameter group {group.pattern!r} matches none of {len(paths)} variables (such as {shown}). "
                "Patterns are searched in variable.path."
            )
