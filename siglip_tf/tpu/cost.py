"""Estimates the time of a compiled program from the compiler's own estimates: cycles x trip counts / clock.

Every fusion of the optimized module has an estimate of its cycles, and every kernel has a static schedule. The sum
estimates a step that never waits. It does not include collectives (reported separately, as bytes over the slowest
link), prefetches that do not finish in time, launching the step, or feeding the input.
"""

from __future__ import annotations

import collections
import dataclasses
import re

from siglip_tf.tpu import hlo
from siglip_tf.tpu.compiler import Compiled, kernel_name
from siglip_tf.tpu.flops import matmul_flops

KINDS = ("matmul", "attention", "norm", "copy", "collective", "optimizer", "other")
_COLLECTIVES = ("all-reduce", "collective-permute", "all-gather", "all-to-all", "reduce-scatter")
_COPIES = {"copy", "transpose", "reshape", "slice", "concatenate", "pad", "dynamic-update-slice", "dynamic-slice"}


@dataclasses.dataclass(frozen=True)
class Op:
    """All instructions with the same kind, name, and shape.

    Attributes:
        kind: one of KINDS.
        name: the compiler's name without its number.
        scope: the name scope of the TensorFlow op that the instruction comes from, or "".
        shape: the shape of the result, without layout.
        count: how often they run per step.
        seconds: their time per step in seconds.
    """

    kind: str
    name: str
    scope: str
    shape: str
    count: int
    seconds: float


@dataclasses.dataclass(frozen=True)
class Hop:
    """One collective permute of the ring.

    Attributes:
        shape: the shape of the tensor that is sent.
        bytes: the size of the tensor in bytes.
        count: how often it runs per step.
        asynchronous: whether separate instructions start and end it.
        seconds_under: the time of the computation between its start and its end, in seconds.
        matmuls_under: how many of the instructions between its start and its end are matmuls.
        seconds: the shortest time that the bytes need over one link, in seconds.
    """

    shape: str
    bytes: int
    count: int
    asynchronous: bool
    seconds_under: float
    matmuls_under: int
    seconds: float


@dataclasses.dataclass(frozen=True)
class Cost:
    """The estimated cost of a step.

    Attributes:
        seconds: the estimated time of a step in seconds.
        collective_seconds: the shortest time of all collectives together, in seconds, if none overlaps computation.
        by_kind: seconds by kind.
        ops: the instructions, most expensive first.
        hops: every collective permute.
        unknown_loops: the number of loops without a known trip count. They count once.
        flops: floating-point operations of the matmuls outside kernels. Recomputation is included.
    """

    seconds: float
    collective_seconds: float
    by_kind: dict[str, float]
    ops: tuple[Op, ...]
    hops: tuple[Hop, ...]
    unknown_loops: int
    flops: float


def analyse(compiled: Compiled) -> Cost:
    """Returns the cost of a compiled module.

    Raises:
        ValueError: if the program did not fit, because then there is no module.
    """
    if not compiled.fits:
        raise ValueError(f"Expected a program that fits {compiled.topology.name}; there is no module to add up.")
    chip = compiled.topology.chip
    module = hlo.parse(compiled.hlo)
    totals: dict[tuple[str, str, str, str], list[float]] = collections.defaultdict(lambda: [0, 0.0])
    collective = 0.0
    for instruction, _, times in module.executed():
        kind = _kind(module, instruction)
        if kind == "collective":
            collective += times * _collective_seconds(module, instruction, chip.link, compiled.replicas)
        cycles = _cycles(instruction, compiled.kernels)
        if cycles:
            shape = re.sub(r"\{[^}]*\}|/\*[^*]*\*/", "", instruction.shape)
            key = (kind, re.sub(r"[.\d]+$", "", instruction.name), instruction.op_name, shape)
            totals[key][0] += times
            totals[key][1] += times * cycles / chip.clock
    ops = sorted((Op(*key, count=int(n), seconds=s) for key, (n, s) in totals.items()), key=lambda op: -op.seconds)
    by_kind = {kind: sum(op.seconds for op in ops if op.kind == kind) for kind in KINDS}
    return Cost(
        seconds=sum(by_kind.values()),
        collective_seconds=collective,
        by_kind=by_kind,
        ops=tuple(ops),
        hops=tuple(_hops(module, compiled)),
        unknown_loops=_unknown_loops(module),
        flops=matmul_flops(module),
    )


def _cycles(instruction, kernels):
    if "tpu_custom_call" in instruction.text and instruction.opcode == "custom-call":
        return kernels.get(kernel_name(instruction.text), 0)
    return instruction.cycles


def _kind(module, instruction):
    scope, inside = instruction.op_name.lower(), _opcodes_inside(module, instruction)
    kernel = instruction.opcode == "custom-call" and "tpu_custom_call" in instruction.text
    # The first test that holds decides. Einsums of attention count as attention, its projections as matmuls.
    tests = {
        "collective": any(name.startswith(_COLLECTIVES) for name in inside),
        "attention": kernel or re.search(r"einsum|softmax", scope),
        "matmul": inside & {"convolution", "dot"},
        "copy": inside <= _COPIES | {"parameter", "bitcast", "tuple", "convert"},
        "norm": "norm" in scope,
        "optimizer": re.search(r"adafactor|adam|lion|optimizer|sgd", scope),
    }
    return next((kind for kind, holds in tests.items() if holds), "other")


def _opcodes_inside(module, instruction):
    return {inner.opcode for inner in _inside(module, instruction)} - {"fusion"}


def _collective_seconds(module, instruction, link, replicas):
    """Returns the time to send an instruction's bytes over one chip's links.

    On a ring of D chips, a scatter or a gather sends (D - 1) / D of the bytes, and a sum sends twice that.
    """
    if instruction.opcode.endswith("-done"):
        return 0.0
    share = (replicas - 1) / replicas
    size = 0.0
    for inner in _inside(module, instruction):
        if inner.opcode.startswith("all-reduce"):
            scattered = "scatter" in instruction.text.partition("calls=")[2][:40]
            size += inner.bytes * share * (1 if scattered else 2)
        elif inner.opcode == "collective-permute-start":
            size += inner.bytes / 2  # the result names source and target
        elif inner.opcode.startswith(_COLLECTIVES):
            size += inner.bytes * share
    return size / link


def _inside(module, instruction):
    yield instruction
    for name in instruction.called.get("calls", ()):
        for inner in module.computations.get(name, ()):
            yield from _inside(module, inner)


def _hops(module, compiled):
    chip = compiled.topology.chip
    times = {}
    for _, computation, count in module.executed():
        times[computation] = count
    for computation, count in times.items():
        scheduled = module.computations[computation]
        place = {i.name: n for n, i in enumerate(scheduled)}
        for instruction in scheduled:
            if instruction.opcode == "collective-permute":
                size, shape = instruction.bytes, instruction.shape
                yield Hop(_bare(shape), size, count, False, 0.0, 0, size / chip.link)
            elif instruction.opcode == "collective-permute-done":
                start = place[instruction.operands[0]]
                between = scheduled[start + 1 : place[instruction.name]]
                cycles = [_cycles(i, compiled.kernels) for i in between]
                matmuls = sum(_kind(module, i) == "matmul" for i in between)
                size = instruction.bytes
                yield Hop(
                    _bare(instruction.shape), size, count, True, sum(cycles) / chip.clock, matmuls, size / chip.link
                )


def _bare(shape):
    return re.sub(r"\{[^}]*\}", "", shape)


def _unknown_loops(module):
    return sum(
        module.trips(i, name) is None
        for name, instructions in module.computations.items()
        for i in instructions
        if i.opcode == "while"
    )
