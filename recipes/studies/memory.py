"""Section 4.2 and the abstract: the memory of the loss, and the largest batch that it leaves room for.

python -m recipes.studies.memory
"""

from __future__ import annotations

import functools
import sys

from .cell import Cell
from .command import main
from .loss_probe import IMPLEMENTATIONS, MIB
from .plots import Line, Panel, draw
from .study import Findings, PaperRow, Picture, Results, Study, Table
from .verdict import NOT_SEEN, SEEN, TOO_FEW, Verdict, advise

DIM = 256
SIZES = (1024, 2048, 4096, 8192)
BUDGET = 256  # MiB


def rows():
    """Returns one cell for each implementation; the seed has no effect on it."""

    def of(implementation, _seed):
        settings = {"implementation": implementation, "dim": DIM, "sizes": list(SIZES)}
        return Cell("memory", settings, f"memory of {implementation}")

    return {name: functools.partial(of, name) for name in IMPLEMENTATIONS}


def findings(results: Results) -> Findings:
    """Bytes by batch size, and the largest batch within a budget."""
    found = {name: next(iter(results.of(name).values()))["bytes"] for name in IMPLEMENTATIONS if results.of(name)}
    table = Table(
        f"Memory (MiB) of loss and gradients beside their inputs, d = {DIM}, float32, and the largest of these "
        f"batches that stays within {BUDGET} MiB.",
        ("implementation", *(f"n = {n:,}" for n in SIZES), f"largest batch in {BUDGET} MiB"),
        [
            (name, *(f"{x / MIB:,.0f}" for x in row), f"{_largest(row):,}" if _largest(row) else "none")
            for name, row in found.items()
        ],
    )
    verdicts = list(_verdicts(found))
    return Findings(
        [table], [Picture("memory", _CAPTION, functools.partial(_draw, found))], verdicts, _NOTES, _advice(verdicts[0])
    )


def _largest(row):
    return max((n for n, x in zip(SIZES, row, strict=True) if x <= BUDGET * MIB), default=0)


def _verdicts(found):
    claims = (
        ("The tiled sigmoid loss needs less memory than the softmax loss in its usual form", "softmax, whole matrix"),
        ("The tiled sigmoid loss needs less memory than Algorithm 1 as it stands", "sigmoid, whole matrix"),
        ("The sigmoid loss needs less memory than the softmax loss, both tiled", "softmax, tiled"),
    )
    for claim, other in claims:
        if other not in found or "sigmoid, tiled" not in found:
            yield Verdict(claim, TOO_FEW, evidence="not measured yet")
            continue
        ours, theirs = found["sigmoid, tiled"][-1] / MIB, found[other][-1] / MIB
        yield Verdict(
            claim,
            SEEN if ours < theirs else NOT_SEEN,
            evidence=f"{ours:,.0f} against {theirs:,.0f} MiB at {SIZES[-1]:,}",
            headline=other == "softmax, whole matrix",
        )


def _advice(verdict):
    return advise(
        verdict,
        seen="Do not choose the loss by memory: both are tiled here.",
        not_seen="Choose tiles by speed: they do not save memory at these batches.",
        smaller="Do not choose the loss by memory: both are tiled here.",
    )


def _draw(found, path):
    lines = [
        Line(name, SIZES, [x / MIB for x in row], i % 2 if "whole" in name else 2 + i % 2, "softmax" in name)
        for i, (name, row) in enumerate(found.items())
    ]
    draw([Panel("Memory of loss and gradients", "batch size", "MiB", lines, log_x=True, log_y=True)], path)


def paper_rows():
    """Four chips: 4096 with the sigmoid loss, 2048 with softmax."""
    return [
        PaperRow(f"B/16 {loss} {batch:,}", "siglip", "v4:2x2x1", batch, 9e9, {"loss": loss})
        for batch in (2048, 4096, 8192)
        for loss in ("sigmoid", "softmax")
    ]


_CAPTION = "Growth of the resident peak for loss and gradients, by implementation."
_NOTES = (
    "A process of its own for each implementation; what is measured is the growth of its resident peak. The softmax "
    "loss of this library is tiled too (two passes round the ring), so that the paper's factor of two against the "
    "usual softmax loss is partly won back; at the paper's scale the TPU compiler says what fits (`--scale paper "
    "--dry-run`).",
)

STUDY = Study(
    name="memory",
    title="Memory of the loss",
    paper="Section 4.2 and abstract",
    question="On four TPUv4 chips the paper fits a batch of 4096 with the sigmoid loss and 2048 with the softmax loss.",
    setup="The loss alone, forward and backward, at growing batches.",
    rows=rows,
    findings=findings,
    paper_rows=paper_rows,
    one_seed=True,
)

if __name__ == "__main__":
    sys.exit(main([STUDY], STUDY.name))
