"""Checks a traced step before it runs on a TPU."""

from __future__ import annotations

from siglip_tf.tpu.replica_program import ReplicaProgram

# Ops that a TPU delegates to its host or does not support. XLA refuses some of them only after minutes of compiling.
_HOST_OPS = (
    "PyFunc",
    "EagerPyFunc",
    "PyFuncStateless",
    "Print",
    "PrintV2",
    "Where",
    "Unique",
    "UniqueV2",
    "LookupTableFindV2",
    "IteratorGetNext",
    "_XlaHostComputeMlir",
    "XlaHostCompute",
    "OutfeedEnqueueTuple",
    "SummaryWriter",
    "WriteSummary",
    "StringSplit",
    "DecodeJpeg",
)
# Ops that pass a batch to the replicas and return their logs.
_OUTSIDE = {
    "Placeholder",
    "Const",
    "Identity",
    "NoOp",
    "Pack",
    "Max",
    "Mean",
    "StridedSlice",
    "IteratorGetNext",
    "MultiDeviceIteratorGetNextFromShard",
    "RemoteCall",
    "OptionalFromValue",
    "PartitionedCall",
    "StatefulPartitionedCall",
}


def check_program(program: ReplicaProgram) -> None:
    """Checks that all chips of a slice can run the same program.

    Hops must be CollectivePermute and sums CrossReplicaSum, the host must not compute anything, and shapes must be
    static. Replicas may differ only in their data and their id, which tracing already ensures.

    Raises:
        ValueError: if the program is not of that form. The message lists the reasons.
    """
    ops = program.traced_ops
    wrong = [f"{ops[name]} {name}, which a TPU leaves to its host" for name in _HOST_OPS if ops.get(name)]
    wrong += [
        f"{n} {name} outside the replicated computation"
        for name, n in program.outside_ops.items()
        if name not in _OUTSIDE
    ]
    if program.replicas > 1:
        if not ops.get("CollectivePermute"):
            wrong.append("no CollectivePermute: the replicas' negatives do not meet")
        if not ops.get("CrossReplicaSum"):
            wrong.append("no CrossReplicaSum: gradients are not summed")
    for collective in ("CollectiveGather", "CollectiveReduceV2", "NcclAllReduce"):
        if ops.get(collective):
            wrong.append(f"{ops[collective]} {collective}: only the ring and sums are expected")
    for op in program.function.graph.get_operations():
        if op.type == "AllToAll" and op.inputs[0].shape.num_elements() != program.replicas:
            # Keras shares its step counter by an AllToAll with one number per replica, which is allowed.
            wrong.append(f"AllToAll of {op.inputs[0].shape}: only the ring and sums are expected")
        if op.type == "CollectivePermute":  # it has no shape inference, but the ring reshapes its result
            continue
        wrong += [
            f"a shape that is not static: {t.name} {t.shape}" for t in op.outputs if not t.shape.is_fully_defined()
        ]
    if wrong:
        shown = "\n  ".join(wrong[:20] + [f"... and {len(wrong) - 20} more"] * (len(wrong) > 20))
        raise ValueError(f"Expected a step that every chip can run alike. Received one with\n  {shown}")
