"""Emits traced ops again as a function without state: variables and lists become values.

The ops are emitted in the order in which they were traced, which is the program's order of reads and writes. A variable
becomes a value that reads return, writes replace, and loops and branches pass on. A list of tensors, which represents a
`TensorArray` in the graph, becomes one array with a leading axis, as on a TPU.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.compiler.tf2xla.ops import gen_xla_ops
from tensorflow.python.framework import func_graph as func_graph_lib

# Ops that have no effect in a compiled program (XLA's kernels for them do nothing), or only order other ops.
_SILENT = {"NoOp", "Assert", "TPUReplicateMetadata"}


class Handle:
    """A placeholder for a resource handle of the traced graph."""

    def __init__(self, key: str):
        self.key = key


@dataclasses.dataclass
class State:
    values: dict[str, tf.Tensor] = dataclasses.field(default_factory=dict)
    written: set[str] = dataclasses.field(default_factory=set)

    def write(self, key: str, value: tf.Tensor) -> None:
        self.values[key] = value
        self.written.add(key)


def emit(ops: Sequence[tf.Operation], values: dict[str, Any], state: State) -> None:
    """Emits `ops` into the default graph. `values` maps the names of traced tensors to the new tensors."""
    for op in ops:
        if op.type in _SILENT:
            continue
        inputs = [values[t.name] for t in op.inputs]
        outputs = _emit_one(op, inputs, state)
        for old, new in zip(op.outputs, outputs, strict=True):
            values[old.name] = new


def _emit_one(op: tf.Operation, inputs: list[Any], state: State) -> Sequence[Any]:
    if op.type == "Identity" and op.outputs[0].dtype in (tf.variant, tf.resource):
        return inputs
    if op.type in _EMITTERS:
        return _EMITTERS[op.type](op, inputs, state)
    if op.type.startswith("TensorList"):
        return _emit_on_list(op, inputs)
    if inputs and isinstance(inputs[0], Handle):
        return _emit_on_variable(op, inputs[0], inputs[1:], state)
    if any(isinstance(t, Handle) for t in inputs) or any(t.dtype == tf.resource for t in op.outputs):
        raise ValueError(f"A TPU step may keep its state in variables alone. Received: {op.type} {op.name}")
    return _emit_plain(op, inputs)


def _emit_plain(op: tf.Operation, inputs: list[Any]) -> Sequence[tf.Tensor]:
    graph = tf.compat.v1.get_default_graph()
    attributes = {}
    for name, attribute in op.node_def.attr.items():
        if name.startswith("_") and name not in {"_gradient_op_type"}:
            continue
        if attribute.HasField("func"):
            graph._add_function_recursive(op.graph._get_function(attribute.func.name))
        attributes[name] = attribute
    inputs = [tf.convert_to_tensor(t, dtype=old.dtype) for t, old in zip(inputs, op.inputs, strict=True)]
    new = graph._create_op_internal(
        op.type, inputs, [t.dtype for t in op.outputs], name=op.name, attrs=attributes, op_def=op.op_def
    )
    for old, fresh in zip(op.outputs, new.outputs, strict=True):
        fresh.set_shape(old.shape)
    return new.outputs


def _emit_on_variable(op: tf.Operation, handle: Handle, inputs: list[Any], state: State) -> Sequence[Any]:
    value = state.values[handle.key]
    kind = op.type
    if kind == "ReadVariableOp":
        return [value]
    if kind == "VariableShape":
        return [tf.constant(value.shape.as_list(), op.outputs[0].dtype)]
    if kind == "ResourceGather":
        return [tf.gather(value, inputs[0], batch_dims=op.get_attr("batch_dims"))]
    updates = {
        "AssignVariableOp": lambda new: new,
        "AssignAddVariableOp": lambda new: value + new,
        "AssignSubVariableOp": lambda new: value - new,
    }
    if kind not in updates:
        raise ValueError(f"No pure form is known for {kind}; supported: ReadVariableOp, {', '.join(updates)}")
    state.write(handle.key, updates[kind](inputs[0]))
    return []


def _emit_on_list(op: tf.Operation, inputs: list[Any]) -> Sequence[Any]:
    kind = op.type
    if kind == "TensorListReserve":
        shape, length = tf.get_static_value(op.inputs[0]), int(tf.get_static_value(op.inputs[1]))
        array = _Unshaped(length, op.get_attr("element_dtype"))
        return [array if shape is None or np.any(np.less(shape, 0)) else array.of_shape(shape)]
    if kind in {"TensorListFromTensor", "TensorListStack"}:
        return [inputs[0]]
    if kind == "TensorListLength":
        return [tf.constant(inputs[0].length if isinstance(inputs[0], _Unshaped) else inputs[0].shape[0])]
    if kind == "TensorListSetItem":
        array, index, item = inputs[:3]
        array = array.of_shape(item.shape) if isinstance(array, _Unshaped) else array
        return [gen_xla_ops.xla_dynamic_update_slice(array, item[None], _start(index, array))]
    if kind == "TensorListGetItem":
        array, index = inputs[:2]
        size = tf.constant([1, *array.shape[1:]], tf.int32)
        item = gen_xla_ops.xla_dynamic_slice(array, _start(index, array), size)
        return [tf.reshape(item, array.shape[1:])]
    raise ValueError(f"No array form is known for {kind} ({op.name}); give the loop a gradient of its own.")


def _start(index, array):
    return tf.stack([index, *[tf.zeros_like(index)] * (array.shape.rank - 1)])


@dataclasses.dataclass(frozen=True)
class _Unshaped:
    """A list whose element shape becomes known at its first write."""

    length: int
    dtype: tf.DType

    def of_shape(self, shape: Sequence[int]) -> tf.Tensor:
        return tf.zeros((self.length, *shape), self.dtype)

    def written_in(self, body: func_graph_lib.FuncGraph, handle: tf.Tensor) -> tf.Tensor:
        """Returns the array, with the shape that a loop's body writes to `handle`."""
        known = {handle.name}
        for op in body.get_operations():
            if op.inputs and op.inputs[0].name in known:
                if op.type == "TensorListSetItem":
                    return self.of_shape(op.inputs[2].shape)
                known.update(t.name for t in op.outputs if op.type == "Identity")
        raise ValueError(
            f"Expected a TensorArray with element_shape, or one that its loop writes. Received: {handle.name}"
        )


def _function_graph(op: tf.Operation, attribute: str) -> func_graph_lib.FuncGraph:
    return op.graph._get_function(op.get_attr(attribute).name).graph


def _emit_call(op: tf.Operation, inputs: list[Any], state: State) -> Sequence[Any]:
    return _inline(_function_graph(op, "f"), inputs, state)


def _inline(graph: func_graph_lib.FuncGraph, inputs: Sequence[Any], state: State) -> list[Any]:
    values = {t.name: new for t, new in zip(graph.inputs, inputs, strict=True)}
    emit([op for op in graph.get_operations() if op.type != "Placeholder"], values, state)
    return [values[t.name] for t in graph.outputs]


def _emit_while(op: tf.Operation, inputs: list[Any], state: State) -> Sequence[Any]:
    """Emits a loop in which variables are loop values."""
    condition, body = _function_graph(op, "cond"), _function_graph(op, "body")
    keys = [t.key if isinstance(t, Handle) else None for t in inputs]
    start = [state.values[key] if key else t for key, t in zip(keys, inputs, strict=True)]
    start = [v.written_in(body, t) if isinstance(v, _Unshaped) else v for v, t in zip(start, body.inputs, strict=True)]
    shapes = [
        v.shape if t.dtype in (tf.resource, tf.variant) else t.shape for v, t in zip(start, body.inputs, strict=True)
    ]
    specs = [tf.TensorSpec(s, v.dtype) for s, v in zip(shapes, start, strict=True)]
    written: set[str] = set()

    def enter(arguments):
        local = State({k: v for k, v in zip(keys, arguments, strict=True) if k})
        return local, [Handle(k) if k else v for k, v in zip(keys, arguments, strict=True)]

    def new_condition(*arguments):
        local, entered = enter(arguments)
        return _inline(condition, entered, local)[0]

    def new_body(*arguments):
        local, entered = enter(arguments)
        outputs = _inline(body, entered, local)
        written.update(local.written)
        return [local.values[k] if k else v for k, v in zip(keys, outputs, strict=True)]

    outputs = tf.raw_ops.StatelessWhile(
        input=start,
        cond=_pure_function(new_condition, specs),
        body=_pure_function(new_body, specs),
        output_shapes=shapes,
        parallel_iterations=op.get_attr("parallel_iterations"),
    )
    for key, value in zip(keys, outputs, strict=True):
        if key in written:
            state.write(key, value)
    return [Handle(k) if k else v for k, v in zip(keys, outputs, strict=True)]


def _emit_if(op: tf.Operation, inputs: list[Any], state: State) -> Sequence[Any]:
    """Emits a branch in which variables are arguments and results."""
    predicate, *rest = inputs
    keys = [t.key if isinstance(t, Handle) else None for t in rest]
    unique = list(dict.fromkeys(k for k in keys if k))
    start = [v for v in rest if not isinstance(v, Handle)] + [state.values[k] for k in unique]
    specs = [tf.TensorSpec(v.shape, v.dtype) for v in start]
    plain = len(start) - len(unique)
    written: set[str] = set()

    def branch(graph):
        def run(*arguments):
            local = State(dict(zip(unique, arguments[plain:], strict=True)))
            values = iter(arguments[:plain])
            outputs = _inline(graph, [Handle(k) if k else next(values) for k in keys], local)
            written.update(local.written)
            return [*outputs, *(local.values[k] for k in unique)]

        return _pure_function(run, specs)

    then = branch(_function_graph(op, "then_branch"))
    outputs = tf.raw_ops.StatelessIf(
        cond=predicate,
        input=start,
        Tout=[t.dtype for t in then.outputs],
        then_branch=then,
        else_branch=branch(_function_graph(op, "else_branch")),
        output_shapes=[t.shape for t in then.outputs],
    )
    count = len(op.outputs)
    for key, value in zip(unique, outputs[count:], strict=True):
        if key in written:
            state.write(key, value)
    return outputs[:count]


def _pure_function(function: Callable, specs: Sequence[tf.TensorSpec]) -> Any:
    concrete = tf.function(function, autograph=False).get_concrete_function(*specs)
    if concrete.captured_inputs:
        raise ValueError(f"A loop or branch captured {concrete.captured_inputs}; it should have been an argument.")
    return concrete


_EMITTERS = {
    "PartitionedCall": _emit_call,
    "StatefulPartitionedCall": _emit_call,
    "While": _emit_while,
    "StatelessWhile": _emit_while,
    "If": _emit_if,
    "StatelessIf": _emit_if,
}
