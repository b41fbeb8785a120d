"""Extracts one replica's program from the graph that TPUStrategy traced. Variables become arguments and results.

Every chip runs the nodes with the attribute `_tpu_replicate`. Their only edges to other nodes are TPUReplicatedInput
and TPUReplicatedOutput. `emission` emits them again into a function without state.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.framework import func_graph as func_graph_lib
from tensorflow.python.util import nest as nest_lib

from siglip_tf.tpu.emission import Handle, State, emit

_BOUNDARY = {"TPUReplicatedInput", "TPUReplicatedOutput", "TPUReplicateMetadata", "TPUCompilationResult"}


@dataclasses.dataclass(frozen=True)
class Argument:
    """One argument or result of a replica's program.

    Attributes:
        name: the variable's path, the batch's key, or the log's key.
        kind: "variable", "data", "replica_id", or "log" (only for results).
        shape: the static shape on one replica.
        dtype: the `tf.DType`.
        result: for a variable that the step writes, the index of the result with its new value, else None.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    dtype: tf.DType
    result: int | None = None

    @property
    def bytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.size


@dataclasses.dataclass(frozen=True)
class ReplicaProgram:
    """A replica's training step as a function of values.

    Attributes:
        function: a pure `tf.types.experimental.ConcreteFunction` from the values of `arguments` to those of `results`.
        arguments: the variables, the data, and the replica's id, in the function's order.
        results: the new values of the variables that the step writes, then the step's logs.
        replicas: the number of chips that run the program.
        traced_ops: counts by op type in the graph that TPUStrategy traced, including functions.
        outside_ops: counts by op type of the ops that run on the host, outside the replicated computation.
    """

    function: Any
    arguments: tuple[Argument, ...]
    results: tuple[Argument, ...]
    replicas: int
    traced_ops: Mapping[str, int]
    outside_ops: Mapping[str, int]

    def ops(self) -> collections.Counter[str]:
        """Returns counts by op type in the pure function, including the bodies of loops and branches."""
        return count_ops(self.function.graph)


def trace_step(
    step: Callable[[Any], Any],
    batch: Any,
    strategy: tf.distribute.TPUStrategy,
    variables: Sequence[keras.Variable],
) -> ReplicaProgram:
    """Traces `strategy.run(step, (batch,))` and extracts one replica's program from the graph.

    Args:
        step: a model's `train_step` or `test_step`, a function of a batch that returns logs.
        batch: a nest of `tf.TensorSpec` with the shapes of one replica's batch.
        strategy: see `made_up_tpu_strategy`.
        variables: every Keras variable that the step may use. The arguments are named after them.

    Returns:
        The program. Its arguments are the variables in the order of `variables`, the batch, and the replica's id if the
        step reads it.

    Raises:
        ValueError: if a shape is not static, a variable is not in `variables`, or an op has state that is not a tensor
            (a hash table, an iterator).
    """
    structure: dict[str, Any] = {}

    def run(*flat_batch):
        local = tf.nest.pack_sequence_as(batch, flat_batch)
        logs = strategy.run(step, args=(local,))
        structure["logs"] = logs = tf.nest.map_structure(lambda v: strategy.experimental_local_results(v)[0], logs)
        return [tf.identity(v) for v in tf.nest.flatten(logs)]

    specs = tf.nest.flatten(batch)
    for spec in specs:
        if not spec.shape.is_fully_defined():
            raise ValueError(f"Expected static shapes, as a TPU compiles for one shape. Received: {spec}")
    graph = tf.function(run, autograph=False).get_concrete_function(*specs).graph
    return program_of_graph(graph, strategy, variables, _leaf_names(batch), _leaf_names(structure["logs"]))


def program_of_graph(
    graph: func_graph_lib.FuncGraph,
    strategy: tf.distribute.TPUStrategy,
    variables: Sequence[keras.Variable],
    data_names: Sequence[str] = (),
    log_names: Sequence[str] = (),
) -> ReplicaProgram:
    """Extracts the program of one replica from a traced `graph` that contains one `strategy.run`. See `trace_step`."""
    body = [op for op in graph.get_operations() if _is_replicated(op)]
    if not body:
        raise ValueError("Expected a graph with a replicated computation. Received one without `strategy.run`.")
    by_handle = _variables_by_handle(variables)
    captured = {inside.name: outside for outside, inside in graph.captures}
    placeholders = [t for t in graph.inputs if t.name not in captured]
    data = {t.name: name for t, name in zip(placeholders, data_names or [t.op.name for t in placeholders], strict=True)}

    sources: dict[str, _Source] = {}  # what each TPUReplicatedInput stands for, by the name of its output
    for op in graph.get_operations():
        if op.type == "TPUReplicatedInput":
            sources[op.outputs[0].name] = _source(op, captured, data, by_handle)

    order = {source.key: i for i, source in enumerate(by_handle.values())}
    by_key: dict[str, _Source] = {}
    for source in sources.values():
        if source.kind != "constant":
            by_key.setdefault(source.key, source)
    kinds = {"variable": 0, "data": 1, "replica_id": 2}
    data_order = {name: i for i, name in enumerate(data.values())}
    arguments = sorted(
        by_key.values(), key=lambda s: (kinds[s.kind], order.get(s.key, 0), data_order.get(s.key, 0), s.name)
    )

    written: list[_Source] = []

    def replica_step(*tensors):
        state = State()
        by_argument = dict(zip((a.key for a in arguments), tensors, strict=True))
        values: dict[str, Any] = {}
        for argument in arguments:
            if argument.kind == "variable":
                state.values[argument.key] = by_argument[argument.key]
        for key, source in sources.items():
            if source.kind == "variable":
                values[key] = Handle(source.key)
            elif source.kind == "constant":
                values[key] = tf.constant(source.constant)
            else:
                values[key] = by_argument[source.key]
        emit(body, values, state)
        logs = [_log_value(output, values) for output in graph.outputs]
        written.extend(a for a in arguments if a.key in state.written)
        return [tf.identity(state.values[a.key]) for a in written] + [tf.identity(v) for v in logs if v is not None]

    specs = [tf.TensorSpec(a.shape, a.dtype) for a in arguments]
    function = tf.function(replica_step, autograph=False).get_concrete_function(*specs)
    if function.captured_inputs:
        raise ValueError(f"Expected a step without state. It captured {function.captured_inputs}")
    logs = function.outputs[len(written) :]

    results = [Argument(a.name, "variable", a.shape, a.dtype) for a in written]
    log_names = log_names or [f"log_{i}" for i in range(len(logs))]
    results += [Argument(name, "log", tuple(v.shape), v.dtype) for name, v in zip(log_names, logs, strict=True)]
    index = {a.key: i for i, a in enumerate(written)}
    outside = collections.Counter(
        op.type for op in graph.get_operations() if not _is_replicated(op) and op.type not in _BOUNDARY
    )
    return ReplicaProgram(
        function=function,
        arguments=tuple(Argument(a.name, a.kind, a.shape, a.dtype, index.get(a.key)) for a in arguments),
        results=tuple(results),
        replicas=strategy.num_replicas_in_sync,
        traced_ops=_count(body),
        outside_ops=outside,
    )


def count_ops(graph: tf.Graph) -> collections.Counter[str]:
    """Returns counts by op type in `graph`, including the bodies of calls, loops, and branches."""
    return _count(graph.get_operations())


# Inputs ------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class _Source:
    kind: str  # variable, data, replica_id, constant
    key: str
    name: str
    shape: tuple[int, ...] = ()
    dtype: tf.DType = tf.float32
    constant: Any = None


def _is_replicated(op: tf.Operation) -> bool:
    return "_tpu_replicate" in op.node_def.attr and op.type not in _BOUNDARY


def _variables_by_handle(variables: Sequence[Any]) -> dict[int, _Source]:
    found: dict[int, _Source] = {}
    for variable in variables:
        value = variable.value if isinstance(variable, keras.Variable) else variable
        name = variable.path if isinstance(variable, keras.Variable) else variable.name
        source = _Source("variable", f"variable:{len(found)}:{name}", name, tuple(value.shape), value.dtype)
        handles = [copy.handle for copy in getattr(value, "values", (value,))]
        packed = getattr(value, "_packed_var", None)  # one handle for all copies
        if packed is not None:
            handles.append(packed.packed_handle)
        found.update({id(handle): source for handle in handles})
    return found


def _source(op: tf.Operation, captured: dict[str, Any], data: dict[str, str], by_handle: dict[int, _Source]) -> _Source:
    first = _through_identities(op.inputs[0])
    if first.dtype == tf.resource:
        source = by_handle.get(id(captured.get(first.name)))
        if source is None:
            raise ValueError(f"The step reads a variable that is not among `variables`. Received: {first.name}")
        return source
    if first.name in data:
        name = data[first.name]
        return _Source("data", f"data:{name}", name, tuple(first.shape), first.dtype)
    if first.name in captured:
        return _Source("constant", "", "", constant=captured[first.name].numpy())
    constants = [tf.get_static_value(_through_identities(t)) for t in op.inputs]
    if any(c is None for c in constants):
        raise ValueError(
            f"Expected weights, the batch or constants to enter the step. Received: {first.op.type} {first.name}"
        )
    if all(np.array_equal(c, constants[0]) for c in constants) and len(constants) > 1:
        return _Source("constant", "", "", constant=constants[0])
    if [int(c) for c in constants] != list(range(len(constants))):
        raise ValueError(
            f"Expected replicas that differ in their data and id alone. Received: {first.name} {constants}"
        )
    return _Source("replica_id", "replica_id", "replica_id", (), first.dtype)


def _through_identities(tensor: tf.Tensor) -> tf.Tensor:
    while tensor.op.type == "Identity":
        tensor = tensor.op.inputs[0]
    return tensor


def _log_value(output: tf.Tensor, values: Mapping[str, Any]) -> Any:
    tensor = _through_identities(output)
    if tensor.op.type != "TPUReplicatedOutput":
        return None
    return values[tensor.op.inputs[0].name]


# Names and counts --------------------------------------------------------------------------------------------------


def _count(ops: Sequence[tf.Operation]) -> collections.Counter[str]:
    counts: collections.Counter[str] = collections.Counter()
    for op in ops:
        counts[op.type] += 1
        for attribute in op.node_def.attr.values():
            if attribute.HasField("func"):
                counts.update(_count(op.graph._get_function(attribute.func.name).graph.get_operations()))
    return counts


def _leaf_names(structure: Any) -> list[str]:
    return [path for path, _ in nest_lib.flatten_with_joined_string_paths(structure)]
