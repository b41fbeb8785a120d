"""Parses the optimized HLO text of the TPU compiler: computations, instructions, loops, and trip counts."""

from __future__ import annotations

import dataclasses
import operator
import re
from collections.abc import Callable, Iterator
from typing import Any

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%([\w.\-]+) = (.*)$")
_OPCODE = re.compile(r"([a-z][\w\-]*)\(")
_CALLED = re.compile(
    r"(calls|body|condition|to_apply|called_computation|branch_computations)=\{?(%[\w.\-]+(?:, %[\w.\-]+)*)\}?"
)
_SHAPE = re.compile(r"(pred|bf16|[sufc]\d+|f8\w+)\[([\d,]*)\]")
_BITS = {"pred": 8, "bf16": 16}
_MOST_TRIPS = 1 << 20
_BOOLEANS = {"true": "1", "false": "0"}
_FOLDS: dict[str, Callable[..., Any]] = {
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
    "and": operator.and_,
    "or": operator.or_,
    "minimum": min,
    "maximum": max,
    "copy": int,
    "bitcast": int,
    "LT": operator.lt,
    "LE": operator.le,
    "GT": operator.gt,
    "GE": operator.ge,
    "EQ": operator.eq,
    "NE": operator.ne,
}


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One instruction.

    Attributes:
        name: the name, which is unique in its computation.
        opcode: "fusion", "while", "collective-permute-start", ...
        shape: the result's shape with its layout, as printed.
        operands: the names of the instructions that it reads.
        called: the names of the computations that it calls, by attribute ("calls", "body", "condition", ...).
        text: the whole line.
        root: whether its value is the result of its computation.
    """

    name: str
    opcode: str
    shape: str
    operands: tuple[str, ...]
    called: dict[str, tuple[str, ...]]
    text: str
    root: bool = False

    @property
    def cycles(self) -> int:
        """The compiler's estimate for this instruction, or 0 if there is none."""
        found = re.search(r'"estimated_cycles":"(\d+)"', self.text)
        return int(found[1]) if found else 0

    @property
    def op_name(self) -> str:
        """The name scope of the TensorFlow op that it comes from, or "" if the compiler added it."""
        found = re.search(r'op_name="([^"]*)"', self.text)
        return found[1] if found else ""

    @property
    def bytes(self) -> int:
        """The size of the result in bytes, without the padding of tiled layouts. For a tuple, it is the sum."""
        return sum(size for _, _, size in shapes(self.shape))


@dataclasses.dataclass(frozen=True)
class Module:
    """An HLO module.

    Attributes:
        computations: the instructions in scheduled order, by the name of the computation.
        entry: the name of the entry computation.
    """

    computations: dict[str, tuple[Instruction, ...]]
    entry: str

    def trips(self, loop: Instruction, where: str) -> int | None:
        """Returns how often a `while` in computation `where` runs its body, or None if the text does not show it.

        Loop counters start at constants and are changed by constants. Therefore this method runs the loop with only the
        values that follow from constants.
        """
        known = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.text)
        if known:
            return int(known[1])
        outside = {i.name: i for i in self.computations[where]}
        start = outside[loop.operands[0]]
        if start.opcode != "tuple":
            return None
        state = [self._value(outside, name, []) for name in start.operands]
        for trips in range(_MOST_TRIPS):
            goes_on = self._root(loop.called["condition"][0], state)
            if goes_on is None:
                return None
            if not goes_on:
                return trips
            body = {i.name: i for i in self.computations[loop.called["body"][0]]}
            root = next(i for i in body.values() if i.root)
            state = [
                None if before is None else self._value(body, name, state)
                for before, name in zip(state, root.operands, strict=True)
            ]
        return None

    def _root(self, computation: str, arguments: list[int | None]) -> int | None:
        instructions = {i.name: i for i in self.computations[computation]}
        return self._value(instructions, next(i.name for i in instructions.values() if i.root), arguments)

    def _value(self, instructions: dict[str, Instruction], name: str, arguments: list[int | None]) -> int | None:
        """Returns an instruction's integer result if it follows from constants and known `arguments`, else None."""
        instruction = instructions.get(name)
        if instruction is None:
            return None
        opcode, text = instruction.opcode, instruction.text
        if opcode == "constant":
            found = re.search(r"constant\((-?\d+|true|false)\)", text)
            return int(_BOOLEANS.get(found[1], found[1])) if found else None
        if opcode in {"get-tuple-element", "parameter"}:
            source = instructions.get(instruction.operands[0]) if opcode != "parameter" else instruction
            index = int(_first(r"(?:index=|parameter\()(\d+)", text))
            known = source is not None and source.opcode == "parameter" and index < len(arguments)
            return arguments[index] if known else None
        values = [self._value(instructions, operand, arguments) for operand in instruction.operands]
        if opcode == "fusion":
            return self._root(instruction.called["calls"][0], values)
        fold = _FOLDS.get(_first(r"direction=(\w+)", text) if opcode == "compare" else opcode)
        return None if fold is None or None in values else int(fold(*values))

    def executed(self, computation: str | None = None, times: int = 1) -> Iterator[tuple[Instruction, str, int]]:
        """Yields every instruction that the chip runs, its computation, and how often it runs.

        Loops are entered with their trip count (1 if unknown), and conditionals with every branch. Fusions are not
        entered, because a chip runs them as one instruction.
        """
        computation = computation or self.entry
        for instruction in self.computations[computation]:
            if instruction.opcode == "while":
                trips = self.trips(instruction, computation)
                yield from self.executed(instruction.called["body"][0], times * (1 if trips is None else trips))
            elif instruction.opcode in {"call", "conditional"}:
                for names in instruction.called.values():
                    for name in names:
                        yield from self.executed(name, times)
            else:
                yield instruction, computation, times


def parse(text: str) -> Module:
    """Parses the text of a scheduled HLO module.

    Raises:
        ValueError: if the text has no entry computation.
    """
    computations: dict[str, tuple[Instruction, ...]] = {}
    entry = ""
    current: list[Instruction] | None = None
    name = ""
    for line in text.splitlines():
        if current is None:
            found = _COMPUTATION.match(line)
            if found:
                name, current = found[2], []
                entry = name if found[1] else entry
        elif line.startswith("}"):
            computations[name] = tuple(current)
            current = None
        else:
            found = _INSTRUCTION.match(line)
            if found:
                current.append(_instruction(bool(found[1]), found[2], found[3], line))
    if not entry:
        raise ValueError(f"Expected the text of an HLO module. Received: {text[:80]!r}...")
    return Module(computations, entry)


def shapes(text: str) -> list[tuple[str, tuple[int, ...], int]]:
    """Returns (dtype, dimensions, bytes) for every array in a printed HLO shape."""
    found = []
    for dtype, dims in _SHAPE.findall(text):
        dimensions = tuple(int(d) for d in dims.split(",") if d)
        bits = _BITS.get(dtype) or int(_first(r"(\d+)", dtype))
        size = bits
        for d in dimensions:
            size *= d
        found.append((dtype, dimensions, size // 8))
    return found


def _instruction(root: bool, name: str, rest: str, line: str) -> Instruction:
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    shape, tail = rest[:end], rest[end:]
    opcode = _OPCODE.search(tail)
    if opcode is None:
        raise ValueError(f"Expected an HLO instruction. Received: {line[:80]!r}")
    close = _closing(tail, opcode.end() - 1)
    operands = tuple(re.findall(r"%([\w.\-]+)", tail[opcode.end() : close]))
    called = {
        key: tuple(n.strip().lstrip("%") for n in names.split(",")) for key, names in _CALLED.findall(tail[close:])
    }
    return Instruction(name, opcode[1], shape, operands, called, line, root)


def _first(pattern: str, text: str) -> str:
    """Returns the first group of a pattern that must occur in HLO text."""
    found = re.search(pattern, text)
    if found is None:
        raise ValueError(f"Expected {pattern!r} in an HLO text. Received: {text[:80]!r}")
    return found[1]


def _closing(text: str, start: int) -> int:
    depth = 0
    for i in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[i], 0)
        if depth == 0:
            return i
    return len(text)
