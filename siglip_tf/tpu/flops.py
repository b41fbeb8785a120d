"""Counts the floating-point operations of a compiled module's matmuls, with loops as often as they run.

The compiler's own count includes a loop's body only once. Kernels are not counted, because their matmuls are not in the
module's text.
"""

from __future__ import annotations

import math
import re

import numpy as np

from siglip_tf.tpu import hlo


def matmul_flops(module: hlo.Module) -> float:
    """Returns the number of multiplications and additions of all convolutions and dots in a step on one chip."""
    return float(sum(times * _inside(module, i, where) for i, where, times in module.executed()))


def _inside(module: hlo.Module, instruction: hlo.Instruction, where: str) -> int:
    total = _of_one(module, instruction, where)
    for name in instruction.called.get("calls", ()):
        total += sum(_inside(module, inner, name) for inner in module.computations.get(name, ()))
    return total


def _of_one(module, instruction, where):
    if instruction.opcode not in {"convolution", "dot"}:
        return 0
    operands = [next(i for i in module.computations[where] if i.name == name) for name in instruction.operands]
    left, right = (hlo.shapes(operand.shape)[0][1] for operand in operands)
    results = math.prod(hlo.shapes(instruction.shape)[0][1])
    if instruction.opcode == "dot":
        axes = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.text)[1]
        return 2 * results * math.prod(left[int(axis)] for axis in axes.split(",") if axis)
    of_left, of_right, of_result = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.text).groups()
    result = hlo.shapes(instruction.shape)[0][1]
    terms = right[of_right.index("i")]
    for axis in sorted(label for label in of_result if label.isdigit()):
        results //= result[of_result.index(axis)]
        terms *= _meetings(instruction.text, int(axis), left[of_left.index(axis)], result[of_result.index(axis)])
    return 2 * results * terms


def _meetings(text, axis, elements, results):
    """Counts the pairs of a result and a window position that read an element, not padding or a gap of a dilation."""
    window = (re.search(r"window=\{([^}]*)\}", text) or ["", ""])[1]

    def of_axis(name, default):
        found = re.search(rf"\b{name}=([\d_x-]+)", window)
        return found[1].split("x")[axis] if found else default

    size, stride, dilation = (int(of_axis(name, 1)) for name in ("size", "stride", "lhs_dilate"))
    low, spread = int(of_axis("pad", "0_0").split("_")[0]), int(of_axis("rhs_dilate", 1))
    first = np.arange(results) * stride - low
    total = 0
    for place in range(size):
        index = first + place * spread
        total += np.count_nonzero((index >= 0) & (index <= (elements - 1) * dilation) & (index % dilation == 0))
    return total
