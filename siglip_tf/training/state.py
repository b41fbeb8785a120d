"""The whole state of training in one folder: variables by `tf.train.Checkpoint`, everything else as JSON.

The variables are saved as flat lists in the order of `model.variables` and `optimizer.variables`, not as an object
graph: a graph follows attribute names, misses a seed generator here and holds a variable twice there.
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
    """Weights, seed generators, optimizer and metrics of a compiled model, to and from a folder.

    Args:
        model: a built and compiled model. The optimizer is built here, inside the model's strategy scope.
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
            # Outside the scope the optimizer's variables would belong to no replica.
            with model.distribute_strategy.scope():
                model.optimizer.build(model.trainable_variables)
        self.model = model
        self.metrics: list[np.ndarray] = []
        self._trackables = dict(trackables or {})

    @property
    def size(self) -> int:
        """Bytes of a checkpoint's variables."""
        groups = self.variables().values()
        return sum(math.prod(v.shape) * tf.as_dtype(v.dtype).size for group in groups for v in group)

    def variables(self) -> dict[str, list[keras.Variable]]:
        """The variables to save: "model", "optimizer" and "metrics" (which Keras resets when `fit` starts)."""
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
            more: JSON values to keep beside the variables.
            done: called with the path of what was written. With it, the variables are copied now and a thread writes
                them.
            checkpoint: what `checkpoint()` returned earlier, to use one writing thread for all.
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
        """The `tf.train.Checkpoint` of the variables and trackables."""
        lists = {name: [variable.value for variable in group] for name, group in self.variables().items()}
        return tf.train.Checkpoint(**lists, **self._trackables)

    def read(self, path: str) -> dict[str, Any]:
        """Puts a folder's state into the model and returns the JSON values kept with it.

        The metrics' values are kept in `metrics` for the caller, since `fit` resets them when it starts.

        Raises:
            ValueError: if the checkpoint is of another model or optimizer; it names the first difference.
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
        # A TPU's host may be another machine, which does not see this one's files.
        tpu = isinstance(self.model.distribute_strategy, tf.distribute.TPUStrategy)
        return "/job:localhost" if tpu else None

    def restore_metrics(self) -> None:
        """Puts back the running metrics that `read` found."""
        for variable, value in zip(self.variables()["metrics"], self.metrics, strict=False):
            variable.assign(value)


def read_json(path: str) -> dict[str, Any]:
    """The JSON values that a checkpoint folder holds beside the variables.

    Raises:
        ValueError: for a folder of another format.
    """
    with tf.io.gfile.GFile(tf.io.gfile.join(path, _STATE), "r") as file:
        content = json.loads(file.read())
    if content.get("format") != _FORMAT:
        raise ValueError(
            f"Expected a training checkpoint of format {_FORMAT} in {path}. Found: {content.get('format')}"
        )
    return content


def data_fault(path: str) -> str | None:
    """Reads every tensor of a checkpoint folder, which checks their checksums: what is wrong, or None."""
    try:
        reader = tf.compat.v1.train.NewCheckpointReader(tf.io.gfile.join(path, _PREFIX))
        for name in reader.get_variable_to_shape_map():
            reader.get_tensor(name)
        read_json(path)
    except (tf.errors.OpError, RuntimeError, ValueError, OSError) as error:
        return f"it cannot be read ({str(error).splitlines()[0][:200]})"
    return None


def _described(variables: list[keras.Variable]) -> list[list]:
    """Name without the model's and numbering, shape and dtype: equal for the same model built in another process."""
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
