"""`--dry-run`: the cells of this machine and their minutes; the paper's runs and what the TPU compiler says of them.

A run of the paper is a recipe's settings with what the study changes. Its figures come from one of three places:
- `siglip_tf.experiments.compiled`, which keeps what this machine compiled from the present source;
- `kept_programs.json`, the compiler's figures of docs/tpu.md, for a program with the same work on a chip ("kept");
- else an estimate, marked "~": time from the arithmetic of a kept program, memory from its state and activations.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from .cell import Cell, with_requirements
from .study import PaperRow, Study
from .sweep import cores

COMPILED, KEPT, ESTIMATED = "compiled", "kept", "estimated"
# SigLIP B/16 of 16 tokens, batch 4096 on four v4 chips, every block computed twice: what the compiler says of it
# (docs/tpu.md), which estimates start from.
ANCHOR_SECONDS = 1.115
ANCHOR_GIB = 10.9
_ANCHOR = PaperRow("anchor", "siglip", "v4:2x2x1", 4096, 9e9, {"model.remat": "block"})
_GIB = 2**30
# Settings that change neither memory nor time of a step.
_WITHOUT_WEIGHT = (
    "duration", "model.init_bias", "model.init_temperature", "optimizer.learning_rate", "seed",
    "optimizer.weight_decay", "optimizer.beta_1", "optimizer.beta_2", "optimizer.image_decay",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Line:
    """The figures of one run.

    Attributes:
        row: the run.
        fits: whether a chip holds it.
        gib: that a chip needs.
        seconds: of a step, or None where it does not fit.
        source: "compiled", "kept" or "estimated", see above.
        usable: GiB that a chip has.
        chips: how many.
    """

    row: PaperRow
    fits: bool
    gib: float
    seconds: float | None
    source: str
    usable: float
    chips: int

    def text(self) -> str:
        """One line of the plan."""
        mark = "~" if self.source == ESTIMATED else ""
        fits = f"{mark}{'fits' if self.fits else 'NOT'} {self.gib:.1f} of {self.usable:.2f} GiB"
        time = ""
        if self.seconds is not None:
            days = self.row.examples / self.row.batch * self.seconds / 86_400
            time = f"{mark}{self.seconds:.2f} s a step, {mark}{days:.1f} days"
        place = f"{self.chips:>3} chips  batch {self.row.batch:>9,}"
        return f"  {self.row.label:<44} {place}  {fits:<27} {time:<32} {self.source}"


def small(studies: Sequence[Study], seeds: int, root: Path, out: TextIO) -> None:
    """Prints each study's cells, how many are computed, and the minutes that the others take on this machine.

    Estimates are corrected by what the computed cells took of the processor.
    """
    counted: set[str] = set()
    parts: list[tuple[str, int, list[Cell]]] = []
    measured = expected = 0.0
    for study in studies:
        cells = [cell for cell in with_requirements(study.cells(seeds)) if cell.key not in counted]
        counted |= {cell.key for cell in cells}
        missing = []
        for cell in cells:
            if cell.result(root) is None:
                missing.append(cell)
            elif worked := cell.worked(root):
                measured, expected = measured + worked, expected + cell.cost
        parts.append((study.name, len(cells), missing))
    factor = measured / expected if expected else 1.0
    whole = 0.0
    for name, count, missing in parts:
        seconds = factor * sum(cell.cost for cell in missing) / cores()
        whole += seconds
        minutes = math.ceil(seconds / 60)
        out.write(
            f"{name:<14} {count:>4} cells, {count - len(missing)} computed; about {minutes} min for the rest on "
            f"{cores()} quiet cores\n"
        )
    out.write(f"in all about {math.ceil(whole / 60)} min; what several studies need is counted once\n")
    if expected:
        out.write(f"the estimates hold {factor:.2f} times what was expected, as the computed cells took that long\n")
    out.write(f"a second look at every claim would take about {math.ceil(whole / 60)} min more at most\n")


def paper(studies: Sequence[Study], compile_now: bool, out: TextIO) -> None:
    """Prints a line for every run of the paper, and compiles what was never compiled if asked to."""
    estimated = False
    for study in studies:
        rows = study.paper_rows()
        out.write(f"{study.title} ({study.paper})\n")
        for row in rows:
            line = look_up(row, compile_now)
            estimated |= line.source == ESTIMATED
            out.write(line.text() + "\n")
            out.flush()
    if estimated:
        out.write(
            f"~ not compiled yet: estimated from the arithmetic of B/16 at 4096 on four chips ({ANCHOR_SECONDS:g} s, "
            f"{ANCHOR_GIB:g} GiB by the compiler). --compile asks the compiler, minutes for each program.\n"
        )
    out.write("Launch any of them by its recipe: python -m recipes.NAME --help\n")


def look_up(row: PaperRow, compile_now: bool = False) -> Line:
    """The compiler's figures of a run, or an estimate."""
    from siglip_tf import tpu
    from siglip_tf.experiments import compiled

    topology = tpu.Topology(row.chips)
    c = _settings(row)
    kept = _kept(row, c)
    if compile_now and not kept.exists():
        print(f"Compiling {row.label} for {row.chips}; minutes.", file=sys.stderr, flush=True)
        compiled.keep(kept, functools.partial(_subject, row), topology, row.batch)
    usable = topology.chip.usable / _GIB
    if kept.exists():
        found = json.loads(kept.read_text())
        return Line(row, found["fits"], found["used_gib"], found["seconds"], COMPILED, usable, topology.chips)
    if (program := kept_program(row)) is not None:
        return Line(row, True, program["used_gib"], program["seconds"], KEPT, usable, topology.chips)
    gib, seconds = estimate(row)
    return Line(row, gib <= usable, gib, seconds if gib <= usable else None, ESTIMATED, usable, topology.chips)


@functools.cache
def _programs() -> list[dict[str, Any]]:
    return json.loads((Path(__file__).parent / "kept_programs.json").read_text())


def kept_program(row: PaperRow) -> dict[str, Any] | None:
    """The kept program that gives each chip of a kind the same work as a run, or None.

    A program for more chips differs in the length of the loss' ring: 1.115 s on 4 chips are 1.117 s on 32.
    """
    changes = {key: value for key, value in row.overrides.items() if f"model.{key}" not in _WITHOUT_WEIGHT}
    changes = {key: value for key, value in changes.items() if key not in _WITHOUT_WEIGHT}
    changes = {key: value for key, value in changes.items() if (key, value) != ("loss", "sigmoid")}
    if row.overrides.get("init_bias", 0.0) is None:
        return None  # without a bias it is another program
    wanted = (row.recipe, row.setup, changes, row.chips.split(":")[0])
    same = [
        program
        for program in _programs()
        if wanted == (program["recipe"], program["setup"], program["overrides"], program["chips"].split(":")[0])
        and row.batch * _chips_of(program["chips"]) == program["batch"] * _chips_of(row.chips)
    ]
    return min(same, key=lambda program: abs(_chips_of(program["chips"]) - _chips_of(row.chips)), default=None)


def _settings(row: PaperRow) -> Any:
    """The recipe's settings with what the run changes."""
    from siglip_tf.experiments.config import flat, set_value

    recipe = importlib.import_module(f"..{row.recipe}", __package__).RECIPE
    c = recipe.settings(row.setup)
    values = {"batch": row.batch, "topology": row.chips, "duration": f"{int(row.examples)} examples", **row.overrides}
    for key, value in values.items():
        if key != "negatives":
            set_value(c, key if key in flat(c) else f"model.{key}", value)
    if c.model.microbatch_size and c.model.microbatch_size >= row.batch // _chips(row):
        c.model.microbatch_size = None
    return c


def _subject(row: PaperRow) -> Any:
    """The run for the compiler; called inside the strategy's scope."""
    import siglip_tf
    from siglip_tf import tpu
    from siglip_tf.experiments.build import batch_spec, build_optimizer, total_steps

    c = _settings(row)
    model = siglip_tf.SigLIP(**c.model.to_dict(), negatives=row.overrides.get("negatives"))
    model.compile(build_optimizer(c, total_steps(c)))
    return tpu.Subject(model, batch_spec(model), row.examples)


def _kept(row: PaperRow, c: Any) -> Path:
    """Returns the file that stores the compiler's figures for a program."""
    from siglip_tf.experiments.compiled import kept_report
    from siglip_tf.experiments.config import flat

    values = {k: v for k, v in flat(c).items() if k not in _WITHOUT_WEIGHT and not k.startswith("schedule.")}
    return kept_report("studies", [values, c.model.init_bias is not None, row.overrides.get("negatives")])


def _chips(row: PaperRow) -> int:
    return _chips_of(row.chips)


@functools.cache
def _chips_of(name: str) -> int:
    from siglip_tf import tpu

    return tpu.Topology(name).chips


def estimate(row: PaperRow) -> tuple[float, float]:
    """Estimates GiB per chip and seconds per step from the figures of the anchor."""
    work, anchor = _work(row), _work(_ANCHOR)
    seconds = ANCHOR_SECONDS * (work["flops"] / anchor["flops"])
    per_activation = (ANCHOR_GIB * _GIB - anchor["state"] - anchor["embeddings"]) / anchor["activations"]
    bytes_needed = work["state"] + work["embeddings"] + work["activations"] * per_activation
    return bytes_needed / _GIB, seconds


def _work(row: PaperRow) -> Mapping[str, float]:
    """Multiplications of one chip in a step; bytes of state and embeddings, and units of activations, on a chip."""
    from siglip_tf.models.variants import image_tower_size, tower_size

    c = _settings(row)
    model = c.model
    b = row.batch // _chips(row)
    flops = state = activations = 0.0
    size = tower_size(model.text, depth=model.text_depth)
    towers = [(size, model.text_length)]
    if model.image is not None:
        image, patch = image_tower_size(model.image)
        towers.append((image, (model.image_size // patch) ** 2))
    again = 3 if model.remat == "none" else 4
    for tower, tokens in towers:
        block = 4 * tower.width**2 + 2 * tower.width * tower.mlp_dim
        flops += again * tower.depth * (tokens * block + 2 * tokens**2 * tower.width)
        state += tower.depth * block
        # What one block keeps while it is computed again, and what each block keeps of its input.
        kept = 12 if model.remat == "none" else 1
        activations += tokens * tower.width * (tower.depth * kept + 12)
    width = size.width if model.token_bottleneck is None else model.token_bottleneck
    state += model.vocab_size * width
    d = model.embed_dim or towers[-1][0].width
    frozen = model.image is None
    passes = 2 + (not frozen) + (2 if model.loss == "softmax" else 0) + (8 if "negatives" in row.overrides else 0)
    flops = b * flops + passes * b * row.batch * d
    bytes_a_weight = {"adafactor": 10, "adamw": 16, "lion": 12}[c.optimizer.name]
    inputs = 0 if frozen else 4 * 3 * model.image_size**2
    return {
        "flops": flops,
        "state": state * bytes_a_weight,
        "embeddings": b * (d * 4 * 8 + inputs),
        "activations": activations * min(b, model.microbatch_size or b),
    }
