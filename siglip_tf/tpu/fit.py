"""Traces the whole `model.fit` under a simulated TPUStrategy, up to the point where a TPU would run it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import keras
import tensorflow as tf
from tensorflow.python.framework import func_graph as func_graph_lib

from siglip_tf.tpu.replica_program import ReplicaProgram, program_of_graph

# TensorFlow's error when the traced function would run.
_STOP = "No OpKernel was registered to support Op 'TPUReplicatedInput'"


def trace_fit(model: keras.Model, data: tf.data.Dataset) -> ReplicaProgram:
    """Calls `model.fit(data)` and extracts one replica's program from the traced graph.

    Args:
        model: a model that was created and compiled in `weightless_scope` of a simulated strategy.
        data: a data set of global batches.

    Raises:
        RuntimeError: if `fit` finishes, or the training function of this version of Keras is not found.
        ValueError: see `program_of_graph`.
    """
    try:
        model.fit(data, epochs=1, verbose=0, shuffle=False)
    except tf.errors.InvalidArgumentError as error:
        if _STOP not in str(error):
            raise
    else:
        raise RuntimeError("Expected `fit` to stop where a TPU is needed. It came to an end.")
    variables = [*model.variables, *model.optimizer.variables]
    for graph in _graphs(_outer_graph(model)):
        if any(op.type == "TPUReplicateMetadata" for op in graph.get_operations()):
            return program_of_graph(graph, model.distribute_strategy, variables)
    raise RuntimeError("Expected a step under `strategy.run` in what `fit` traced. There is none.")


def _outer_graph(model: keras.Model) -> func_graph_lib.FuncGraph:
    """Returns the graph of the function that Keras runs on the iterator. Only a closure holds this function."""
    function = inspect.getclosurevars(model.train_function).nonlocals.get("multi_step_on_iterator")
    if function is None:
        raise RuntimeError(f"Expected the training function of Keras 3.15. Received: keras {keras.__version__}.")
    (concrete,) = function._list_all_concrete_functions()
    return concrete.graph


def _graphs(graph: func_graph_lib.FuncGraph) -> Iterator[func_graph_lib.FuncGraph]:
    yield graph
    for name in graph._functions:
        inner = getattr(graph._get_function(name), "graph", None)
        if inner is not None:
            yield from _graphs(inner)
