"""The reference chain around an optimizer's direction, which AdamW, Lion, and ScalingViT-Adafactor share.

    sum over replicas -> clip by global norm -> direction -> * learning rate -> * group multiplier
    -> + weight decay * parameter (kernels only) -> * schedule in 0..1 -> subtract

Weight decay is scaled by the schedule and not by the learning rate. Keras uses a different order: it clips before the
sum over replicas, and it multiplies the decay by the learning rate.

Source: the reference implementation's `optax.py` (big_vision); paper section 4.1 and 4.5 (decay and multipliers).
"""

import abc
from collections.abc import Iterable, Mapping, Sequence

import keras
import tensorflow as tf

from siglip_tf.optimizers.groups import KERNELS, ParameterGroup, check_all_match, compiled, group_of, parameter_groups
from siglip_tf.primitives.stacking import groups_of, stack, sums_of_squares, unstack


class ReferenceChain(keras.optimizers.Optimizer, abc.ABC):
    """The base class of this project's optimizers. A subclass computes the direction of the step.

    A subclass creates its state in `build_state`, returns it in `state_of`, and computes the step in `direction`. It
    may extend `step_scalars`. Under TPUStrategy, variables of the same shape and group are updated as one stacked
    tensor.

    Args:
        learning_rate: the peak learning rate, a float or a Keras schedule.
        schedule: a function from the step to a factor in 0..1, such as `siglip_tf.optimizers.Cosine`, or None for 1.
        weight_decay: decoupled weight decay, scaled by the schedule only.
        groups: `ParameterGroup`s, or mappings of their arguments. The first group that matches applies.
        decay_pattern: regular expression for the paths that decay. The default is kernels, so that biases,
            normalization, embeddings, the probe, the temperature, and the bias of the loss do not decay.
        global_clipnorm: largest norm of all gradients together, after the sum over replicas, or None.
        name: name of the optimizer.

    Raises:
        ValueError: a value is out of range, a pattern is misspelled, or a variable to train is frozen.
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
        """Creates the optimizer's state, and finds every variable's group.

        Raises:
            ValueError: a group matches nothing, or a variable to train belongs to a frozen group.
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
        """Creates the state that the direction needs. The default is none."""

    def state_of(self, index: int) -> list[keras.Variable]:
        """Returns the state of one variable. The default is none."""
        return []

    @abc.abstractmethod
    def direction(
        self,
        gradient: tf.Tensor,
        state: Sequence[tf.Tensor],
        shape: tuple[int, ...],
        scalars: Mapping[str, tf.Tensor],
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Computes the step, before the learning rate and the sign, and the new state.

        Args:
            gradient: the gradient of a variable of `shape`. A leading axis may stack several variables.
            state: values of `state_of`, with the same leading axis.
            shape: the shape of one variable.
            scalars: the result of `step_scalars`.

        Returns:
            The step, shaped like the gradient, and the new values of `state`.
        """

    def step_scalars(self, learning_rate: tf.Tensor) -> dict[str, tf.Tensor]:
        """Computes the float32 scalars that all variables of a step share."""
        schedule = 1.0 if self.schedule is None else self.schedule(self.iterations)
        return {
            "learning_rate": tf.cast(learning_rate, tf.float32),
            "schedule": tf.cast(schedule, tf.float32),
            "step": tf.cast(self.iterations.value, tf.float32),
        }

    def update_step(self, gradient, variable, learning_rate) -> None:
        """Updates one variable, and stores the sum of squares of its update."""
        scalars = learning_rate if isinstance(learning_rate, dict) else self.step_scalars(learning_rate)
        self._update_alike([self._get_variable_index(variable)], [gradient], [variable], scalars)

    def _update_alike(self, indices, gradients, variables, scalars) -> None:
        """Updates variables of the same shape, learning rate, and decay. Several are updated as one stacked tensor."""
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
        # Use a select over a small vector instead of a scatter, because XLA fuses a chain of selects.
        place = {index: position for position, index in enumerate(indices)}
        mine = tf.constant([index in place for index in range(len(self._decays))])
        values = tf.cast(sums[0], tf.float32)
        if len(place) > 1:
            values = tf.gather(tf.stack(sums), [place.get(index, 0) for index in range(len(self._decays))])
        squares = tf.convert_to_tensor(self._update_squares.value)
        self.assign(self._update_squares, tf.where(mine, values, squares))

    @property
    def update_sum_of_squares(self) -> keras.Variable:
        """The sum of squares of each variable's last update, float32 (variables,), in the order of `build`.

        `sqrt(reduce_sum(...))` is the norm of the update, and the same of a slice is the norm of a tower's update. All
        replicas hold equal values.
        """
        return self._update_squares

    def _apply_weight_decay(self, variables) -> None:
        """Does nothing, because decay is part of the update. Keras would scale it by the learning rate."""

    def _clip_gradients(self, grads) -> list[tf.Tensor]:
        pairs = [(_dense(gradient), index) for index, gradient in enumerate(grads)]
        summed = [gradient for gradient, _ in self._all_reduce_sum_gradients(pairs)]
        if self.global_clipnorm is None:
            return summed
        norm = tf.sqrt(2.0 * tf.add_n([tf.nn.l2_loss(tf.cast(gradient, tf.float32)) for gradient in summed]))
        # A norm of inf or NaN makes every gradient NaN on purpose, so that a broken step does not look like a clipped
        # one.
        scale = self.global_clipnorm / tf.maximum(norm, self.global_clipnorm) + (norm - norm)
        return [gradient * tf.cast(scale, gradient.dtype) for gradient in summed]

    def _backend_update_step(self, grads, trainable_variables, learning_rate) -> None:
        # The gradients are already summed (see _clip_gradients). Keras would sum them here, after clipping.
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
    """Makes a gradient dense. Keras squares the slices of a sparse one separately, which is wrong for repeated ids."""
    if not isinstance(gradient, tf.IndexedSlices):
        return gradient
    rows = tf.get_static_value(gradient.dense_shape[0]) if gradient.dense_shape is not None else None
    if rows is None:
        return tf.convert_to_tensor(gradient)
    dense = tf.math.unsorted_segment_sum(gradient.values, gradient.indices, int(rows))
    return tf.ensure_shape(dense, [int(rows), *gradient.values.shape[1:]])
