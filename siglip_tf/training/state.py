"""Stores the whole state of training in one folder: variables by `tf.train.Checkpoint`, everything else as JSON.

The variables are saved as flat lists in the order of `model.variables` and `optimizer.variables`, not as an object
graph. A graph follows attribute names; it can miss a seed generator or hold a variable twice.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

_PREFIX = "variables"
_STATE = "state.json"
_FORMAT = 1


class TrainingState:
    """Saves the weights, seed generators, optimizer, and metrics of a compiled model to a folder, and restores them.

    Args:
        model: a built and compiled model. Its optimizer is built here if needed, inside the model's strategy scope.
        trackables: more objects for `tf.train.Checkpoint`, by name, such as a `tf.random.Generator`.

    Raises:
        ValueError: if the model has no variables yet or was not compiled with an optimizer.
    """

    def __init__(self, model: keras.Model, trackables: Mapping[str, Any] | None = None):
        if not model.built or not model.variables:
            raise ValueError(f"Build the model {model.name!r} before its training state is saved or restored.")
        if getattr(model, "optimizer", None) is None:
            raise ValueError(
                f"Compile the model {model.name!r} with an optimizer before its training state is restored."
            )
        if not model.optimizer.built:
            # Outside the scope, the optimizer's variables would not belong to the replicas.
            with model.distribute_strategy.scope():
                model.optimizer.build(model.trainable_variables)
        self.model = model
        self.metrics: list[np.ndarray] = []
        self._trackables = dict(trackables or {})

    @property
    def size(self) -> int:
        """The size of a checkpoint's variables in bytes."""
        groups = self.variables().values()
        return sum(math.prod(v.shape) * tf.as_dtype(v.dtype).size for group in groups for v in group)

    def variables(self) -> dict[str, list[keras.Variable]]:
        """Returns the variables to save: "model", "optimizer", and "metrics" (which Keras resets when `fit` starts)."""
        metrics = list(self.model.metrics_variables)
        known = {id(variable) for variable in metrics}
        return {
            "model": [variable for variable in self.model.variables if id(variable) not in known],
            "optimizer": list(self.model.optimizer.variables),
            "metrics": metrics,
        }

    def write(
        self,
        path: str,
        more: Mapping[str, Any],
        done: Callable[[str], None] | None = None,
        checkpoint: tf.train.Checkpoint | None = None,
    ) -> None:
        """Writes everything into an empty folder.

        Args:
            path: the folder.
            more: JSON values to store with the variables.
            done: a function that is called with the path of the written checkpoint. If it is given, the variables are
                copied now and a thread writes them.
            checkpoint: a result of `checkpoint()`. Pass the same one each time, so that all writes share one thread.
        """
        described = {name: _described(variables) for name, variables in self.variables().items()}
        content = {"format": _FORMAT, **more, "variables": described}
        with tf.io.gfile.GFile(tf.io.gfile.join(path, _STATE), "w") as file:
            file.write(json.dumps(content))
        options = tf.train.CheckpointOptions(
            experimental_io_device=self._io_device(),
            enable_async=done is not None,
            experimental_write_callbacks=None if done is None else [done],
        )
        (checkpoint or self.checkpoint()).write(tf.io.gfile.join(path, _PREFIX), options=options)

    def checkpoint(self) -> tf.train.Checkpoint:
        """Returns a `tf.train.Checkpoint` of the variables and trackables."""
        lists = {name: [variable.value for variable in group] for name, group in self.variables().items()}
        return tf.train.Checkpoint(**lists, **self._trackables)

    def read(self, path: str) -> dict[str, Any]:
        """Restores a folder's state into the model, and returns the JSON values that are stored with it.

        The values of the metrics are also kept in `self.metrics`, because `fit` resets the variables when it starts.

        Raises:
            ValueError: if the checkpoint is of another model or optimizer. It names the first difference.
        """
        content = read_json(path)
        for name, group in self.variables().items():
            if name != "metrics":
                _check_same(path, name, content["variables"][name], _described(group))
        same_metrics = content["variables"]["metrics"] == _described(self.variables()["metrics"])
        lists = {name: [variable.value for variable in group] for name, group in self.variables().items()}
        if not same_metrics:
            del lists["metrics"]
        reader = tf.train.Checkpoint(**lists, **self._trackables)
        options = tf.train.CheckpointOptions(experimental_io_device=self._io_device())
        reader.read(tf.io.gfile.join(path, _PREFIX), options=options).assert_existing_objects_matched()
        self.metrics = [v.numpy() for v in self.variables()["metrics"]] if same_metrics else []
        return content

    def _io_device(self) -> str | None:
        # A TPU's host may be another machine that cannot access the files of this one.
        tpu = isinstance(self.model.distribute_strategy, tf.distribute.TPUStrategy)
        return "/job:localhost" if tpu else None

    def restore_metrics(self) -> None:
        """Restores the metrics that `read` found."""
        for variable, value in zip(self.variables()["metrics"], self.metrics, strict=False):
            variable.assign(value)


def read_json(path: str) -> dict[str, Any]:
    """Returns the JSON values that a checkpoint folder holds with its variables.

    Raises:
        ValueError: if the folder has another format.
    """
    with tf.io.gfile.GFile(tf.io.gfile.join(path, _STATE), "r") as file:
        content = json.loads(file.read())
    if content.get("format") != _FORMAT:
        raise ValueError(
            f"Expected a training checkpoint of format {_FORMAT} in {path}. Found: {content.get('format')}"
        )
    return content


def data_fault(path: str) -> str | None:
    """Reads every tensor of a checkpoint folder, which verifies the checksums. Returns an error message or None."""
    try:
        reader = tf.compat.v1.train.NewCheckpointReader(tf.io.gfile.join(path, _PREFIX))
        for name in reader.get_variable_to_shape_map():
            reader.get_tensor(name)
        read_json(path)
    except (tf.errors.OpError, RuntimeError, ValueError, OSError) as error:
        return f"it cannot be read ({str(error).splitlines()[0][:200]})"
    return None


def _described(variables: list[keras.Variable]) -> list[list]:
    """Returns the name, shape, and dtype of each variable.

    The names omit the model's name and Keras' numbering, so that they are the same in every process.
    """
    return [
        [re.sub(r"_\d+(?=[/_]|$)", "", variable.path.partition("/")[2]), list(variable.shape), str(variable.dtype)]
        for variable in variables
    ]


def _check_same(path: str, kind: str, saved: list[list], present: list[list]) -> None:
    if saved == present:
        return
    if len(saved) != len(present):
        extra = f"It holds {len(saved)} {kind} variables, this one has {len(present)}."
    else:
        before, now = next(pair for pair in zip(saved, present, strict=True) if pair[0] != pair[1])
        extra = f"Its {kind} variable {before} stands where this one has {now}."
    raise ValueError(
        f"The checkpoint {path} is of another model or optimizer. {extra} "
        "Build the model as it was built then, or train in a new directory."
    )
