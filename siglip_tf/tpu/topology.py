"""TPU slices by name, and the facts about chips that are needed to interpret the compiler's results."""

from __future__ import annotations

import dataclasses
import re

GIB = 1 << 30


@dataclasses.dataclass(frozen=True)
class Chip:
    """The chip of one generation.

    Attributes:
        name: the generation, as in a topology's name.
        flops: the peak number of bfloat16 floating-point operations per second.
        clock: cycles per second, computed from `flops` and the chip's matrix units.
        cores: number of TensorCores per replica. Two form a "megacore".
        hbm: bytes of memory.
        usable: bytes of memory that the compiler gives to a program.
        bandwidth: bytes per second between the chip and its memory.
        link: bytes per second from the chip over all its links to other chips.
        accelerator: a name of this generation that libtpu accepts as an accelerator type.
        host_chips: number of chips per host in a slice of several hosts.

    Source: Google Cloud's TPU system architecture pages; the compiler's messages for programs that do not fit.
    """

    name: str
    flops: float
    clock: float
    cores: int
    hbm: int
    usable: int
    bandwidth: float
    link: float
    accelerator: str
    host_chips: int


CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v4", 275e12, 1.05e9, 2, 32 * GIB, int(30.75 * GIB), 1.228e12, 300e9, "v4-8", 4),
        Chip("v5e", 197e12, 1.5e9, 1, 16 * GIB, int(15.75 * GIB), 0.819e12, 200e9, "v5litepod-4", 8),
        Chip("v5p", 459e12, 1.75e9, 2, 95 * GIB, int(94.74 * GIB), 2.765e12, 600e9, "v5p-8", 4),
        Chip("v6e", 918e12, 1.75e9, 1, 32 * GIB, int(31.25 * GIB), 1.640e12, 448e9, "v6e-4", 8),
    )
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """A slice such as "v4:2x2x1": the generation, and the number of chips along each axis of the torus.

    Raises:
        ValueError: if the generation is unknown, or the shape is not a product of positive numbers.
    """

    name: str

    def __post_init__(self):
        found = re.fullmatch(r"(\w+):(\d+(?:x\d+){1,2})", self.name)
        if not found or found[1] not in CHIPS or 0 in self.shape:
            raise ValueError(
                f"Expected a topology such as 'v4:2x2x1' or 'v5e:2x2', of {', '.join(CHIPS)}. Received: {self.name!r}."
            )
        axes = 3 if found[1] in {"v4", "v5p"} else 2
        if len(self.shape) != axes:
            raise ValueError(f"Expected {axes} axes for {found[1]}. Received: {self.name!r}.")

    @property
    def chip(self) -> Chip:
        return CHIPS[self.name.partition(":")[0]]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(int(n) for n in self.name.partition(":")[2].split("x"))

    @property
    def chips(self) -> int:
        count = 1
        for n in self.shape:
            count *= n
        return count

    @property
    def hosts(self) -> int:
        """The number of hosts. Each has at most `host_chips` chips."""
        return -(-self.chips // self.chip.host_chips)

    @property
    def options(self) -> dict[str, str]:
        """Further arguments of `jax.experimental.topologies.get_topology_desc`, without the name."""
        return {"chip_config_name": "megacore"} if self.chip.name == "v4" else {}
