"""The reference chain round an optimizer's direction, shared by AdamW, Lion and ScalingViT-Adafactor.

    sum over replicas -> clip by global norm -> direction -> * learning rate -> * group multiplier
    -> + weight decay * parameter (kernels only) -> * schedule in 0..1 -> subtract

Weight decay is scaled by the schedule and not by the learning rate. Keras' own order is another one: it clips before
the sum over replicas and multiplies the decay by the learning rate.

Source: the reference implementation's `optax.py` (big_vision); paper section 4.1 and 4.5 (decay and multipliers).
"""

import abc
from collections.abc import Iterable, Mapping, Sequence

import keras
import tensorflow as tf

from siglip_tf.optimizers.groups import KERNELS, ParameterGroup, check_all_match, compiled, group_of, parameter_groups
from siglip_tf.primitives.stacking import groups_of, stack, sums_of_squares, unstack


class ReferenceChain(keras.optimizers.Optimizer, abc.ABC):
    """Base of this project's optimizers; a subclass gives the direction of the step.

    Args:
        learning_rate: the peak learning rate, float or Keras schedule.
        schedule: factor in 0..1 by step (`siglip_tf.optimizers.Cosine` ...), or None for 1.
        weight_decay: decoupled weight decay, scaled by the schedule only.
        groups: `ParameterGroup`s or mappings of their arguments; the first match wins.
        decay_pattern: regular expression for the paths that decay; kernels by default, so that biases, normalisation,
            embeddings, the probe, temperature and loss bias do not.
        global_clipnorm: largest norm of all gradients together after the sum over replicas, or None.
        name: name of the optimizer.

    Raises:
        ValueError: for values out of range, misspelt patterns, frozen variables among those to train.

    A subclass makes its state in `build_state`, tells it by `state_of` and gives `direction`, a function of values; it
    may extend `step_scalars`. Under TPUStrategy variables of one shape and one group are updated as one stacked tensor.
    """

    def __init__(
        self,
        learning_rate: float = 1e-3,
        schedule: keras.optimizers.schedules.LearningRateSchedule | None = None,
        *,
        weight_decay: float = 0.0,
        groups: Iterable[ParameterGroup | Mapping] | None = None,
        decay_pattern: str = KERNELS,
        global_clipnorm: float | None = 1.0,
        name: str | None = None,
    ):
        if global_clipnorm is not None and not global_clipnorm > 0:
            raise ValueError(f"Expected global_clipnorm > 0 or None. Received: global_clipnorm={global_clipnorm}")
        if not weight_decay >= 0:
            raise ValueError(f"Expected weight_decay >= 0. Received: weight_decay={weight_decay}")
        if schedule is not None and not callable(schedule):
            raise ValueError(
                "Expected schedule to be a function of the step such as siglip_tf.optimizers.Cosine(total_steps, "
                f"warmup_steps), or None. Received: schedule={schedule!r}"
            )
        super().__init__(learning_rate=learning_rate, global_clipnorm=global_clipnorm, name=name)
        self.schedule = schedule
        self.weight_decay = float(weight_decay)
        self.groups = parameter_groups(groups)
        self.decay_pattern = decay_pattern
        compiled(decay_pattern)

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Makes the optimizer's state and finds every variable's group.

        Raises:
            ValueError: if a group matches nothing or a variable to train belongs to a frozen group.
        """
        if self.built:
            return
        paths = [variable.path for variable in variables]
        groups = [group_of(path, self.groups) for path in paths]
        frozen = [path for path, group in zip(paths, groups, strict=True) if group.freeze]
        if frozen:
            raise ValueError(
                f"{len(frozen)} variables to train belong to a frozen group, such as {frozen[0]!r}. "
                "Call siglip_tf.optimizers.freeze(model, groups) before the optimizer is built."
            )
        check_all_match(paths, [group for group in self.groups if not group.freeze])
        super().build(variables)
        kernel = compiled(self.decay_pattern)
        self._learning_rate_multipliers = tuple(group.learning_rate_multiplier for group in groups)
        self._decays = tuple(
            self.weight_decay * group.decay_multiplier if kernel.search(path) else 0.0
            for path, group in zip(paths, groups, strict=True)
        )
        self._update_squares = self.add_variable(
            shape=(len(paths),), dtype="float32", name="update_sum_of_squares", aggregation="only_first_replica"
        )
        self.build_state(variables)

    def build_state(self, variables: Sequence[keras.Variable]) -> None:
        """Makes the state that the direction needs; none by default."""

    def state_of(self, index: int) -> list[keras.Variable]:
        """The state of one variable; none by default."""
        return []

    @abc.abstractmethod
    def direction(
        self,
        gradient: tf.Tensor,
        state: Sequence[tf.Tensor],
        shape: tuple[int, ...],
        scalars: Mapping[str, tf.Tensor],
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """The step before learning rate and sign, of the gradient's shape, and the state behind it.

        Args:
            gradient: of a variable of `shape`; a leading axis holds several of them.
            state: values of `state_of`, with the same leading axis.
            shape: of one variable.
            scalars: of `step_scalars`.
        """

    def step_scalars(self, learning_rate: tf.Tensor) -> dict[str, tf.Tensor]:
        """What is the same for every variable of a step: float32 scalars, computed once."""
        schedule = 1.0 if self.schedule is None else self.schedule(self.iterations)
        return {
            "learning_rate": tf.cast(learning_rate, tf.float32),
            "schedule": tf.cast(schedule, tf.float32),
            "step": tf.cast(self.iterations.value, tf.float32),
        }

    def update_step(self, gradient, variable, learning_rate) -> None:
        """Updates one variable and notes the sum of squares of its update."""
        scalars = learning_rate if isinstance(learning_rate, dict) else self.step_scalars(learning_rate)
        self._update_alike([self._get_variable_index(variable)], [gradient], [variable], scalars)

    def _update_alike(self, indices, gradients, variables, scalars) -> None:
        """Updates variables of one shape, learning rate and decay: several of them as one stacked tensor."""
        dtype, count, first = variables[0].dtype, len(indices), indices[0]
        slots = list(zip(*(self.state_of(index) for index in indices), strict=True))
        state = [stack([tf.convert_to_tensor(variable.value) for variable in slot]) for slot in slots]
        gradient = stack([tf.cast(gradient, dtype) for gradient in gradients])
        update, after = self.direction(gradient, state, tuple(variables[0].shape), scalars)
        for slot, values in zip(slots, after, strict=True):
            for variable, value in zip(slot, unstack(values, count), strict=True):
                self.assign(variable, value)
        update *= tf.cast(scalars["learning_rate"] * self._learning_rate_multipliers[first], update.dtype)
        if self._decays[first]:
            update += self._decays[first] * tf.cast(stack([tf.convert_to_tensor(v) for v in variables]), update.dtype)
        update *= tf.cast(scalars["schedule"], update.dtype)
        updates = unstack(update, count)
        for variable, value in zip(variables, updates, strict=True):
            self.assign_sub(variable, value)
        self.note_updates(indices, sums_of_squares(updates, stacked=count > 1))

    def note_updates(self, indices: Sequence[int], sums: Sequence[tf.Tensor]) -> None:
        """Writes entries of `update_sum_of_squares`."""
        # A select over a small vector and not a scatter: XLA fuses the chain of them.
        place = {index: position for position, index in enumerate(indices)}
        mine = tf.constant([index in place for index in range(len(self._decays))])
        values = tf.cast(sums[0], tf.float32)
        if len(place) > 1:
            values = tf.gather(tf.stack(sums), [place.get(index, 0) for index in range(len(self._decays))])
        squares = tf.convert_to_tensor(self._update_squares.value)
        self.assign(self._update_squares, tf.where(mine, values, squares))

    @property
    def update_sum_of_squares(self) -> keras.Variable:
        """Sum of squares of each variable's last update: float32 (variables,), ordered as the optimizer was built.

        `sqrt(reduce_sum(...))` is the update's norm; a slice of it is a tower's. Equal on every replica.
        """
        return self._update_squares

    def _apply_weight_decay(self, variables) -> None:
        """Nothing: decay is part of the update here, Keras would scale it by the learning rate."""

    def _clip_gradients(self, grads) -> list[tf.Tensor]:
        pairs = [(_dense(gradient), index) for index, gradient in enumerate(grads)]
        summed = [gradient for gradient, _ in self._all_reduce_sum_gradients(pairs)]
        if self.global_clipnorm is None:
            return summed
        norm = tf.sqrt(2.0 * tf.add_n([tf.nn.l2_loss(tf.cast(gradient, tf.float32)) for gradient in summed]))
        # A norm of inf or NaN makes every gradient NaN on purpose: a broken step must not pass for a clipped one.
        scale = self.global_clipnorm / tf.maximum(norm, self.global_clipnorm) + (norm - norm)
        return [gradient * tf.cast(scale, gradient.dtype) for gradient in summed]

    def _backend_update_step(self, grads, trainable_variables, learning_rate) -> None:
        # The gradients are summed already (see _clip_gradients); Keras would do it here, after clipping.
        pairs = [(gradient, getattr(v, "value", v)) for gradient, v in zip(grads, trainable_variables, strict=True)]
        stacks = isinstance(self._distribution_strategy, tf.distribute.TPUStrategy)
        tf.__internal__.distribute.interim.maybe_merge_call(
            self._stacked_update_step if stacks else self._distributed_tf_update_step,
            self._distribution_strategy,
            pairs,
            self.step_scalars(learning_rate),
        )

    def _stacked_update_step(self, distribution, pairs, scalars) -> None:
        indices = [self._get_variable_index(variable) for _, variable in pairs]
        keys = [
            (tuple(v.shape), v.dtype, self._learning_rate_multipliers[i], self._decays[i])
            for i, (_, v) in zip(indices, pairs, strict=True)
        ]
        for group in groups_of(keys):
            gradients, variables = zip(*(pairs[position] for position in group), strict=True)
            among = [indices[position] for position in group]

            def update(_, among=among, gradients=gradients, variables=variables):
                self._update_alike(among, gradients, variables, scalars)

            distribution.extended.update(variables[0], update, group=False)

    def get_config(self) -> dict:
        config = super().get_config()
        return {
            "name": config["name"],
            "learning_rate": config["learning_rate"],
            "schedule": keras.saving.serialize_keras_object(self.schedule),
            "weight_decay": self.weight_decay,
            "groups": [
                {
                    "pattern": group.pattern,
                    "learning_rate_multiplier": group.learning_rate_multiplier,
                    "decay_multiplier": group.decay_multiplier,
                    "freeze": group.freeze,
                }
                for group in self.groups
            ],
            "decay_pattern": self.decay_pattern,
            "global_clipnorm": self.global_clipnorm,
        }

    @classmethod
    def from_config(cls, config: dict, custom_objects: dict | None = None) -> "ReferenceChain":
        config = dict(config)
        if isinstance(config.get("schedule"), dict):
            config["schedule"] = keras.saving.deserialize_keras_object(config["schedule"], custom_objects)
        return super().from_config(config, custom_objects)


def _dense(gradient):
    """A dense gradient. Keras squares the slices of a sparse one apart, which is wrong for repeated token ids."""
    if not isinstance(gradient, tf.IndexedSlices):
        return gradient
    rows = tf.get_static_value(gradient.dense_shape[0]) if gradient.dense_shape is not None else None
    if rows is None:
        return tf.convert_to_tensor(gradient)
    dense = tf.math.unsorted_segment_sum(gradient.values, gradient.indices, int(rows))
    return tf.ensure_shape(dense, [int(rows), *gradient.values.shape[1:]])
