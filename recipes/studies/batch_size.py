"""Figure 2: the batch size, sigmoid against softmax, with a frozen image tower (SigLiT) and from scratch (SigLIP).

python -m recipes.studies.batch_size
"""

from __future__ import annotations

import functools
import sys

from . import small
from .command import main
from .plots import Line, Panel, draw
from .study import Findings, PaperRow, Picture, Results, Study, Table
from .verdict import REVERSED, SEEN, Estimate, Verdict, greater

LOSSES = ("sigmoid", "softmax")
SETUPS = {
    "SigLiT": (small.siglit, (16, 64, 256, 1024, 4096), 49_152),
    "SigLIP": (small.cell, (16, 64, 256, 1024), 24_576),
}
# Below this the paper speaks of small batches; a quarter of the pictures there are, as 16k of it is of the largest.
_SMALL = {"SigLiT": 256, "SigLIP": 64}


def label_of(setup: str, loss: str, batch: int) -> str:
    """Of a row."""
    return f"{setup}, {loss}, batch {batch}"


def rows():
    """Both set-ups, both losses, all batch sizes."""

    def of(setup, loss, batch, seed):
        make, _, examples = SETUPS[setup]
        changes = {} if loss == "sigmoid" else {"model": {"loss": "softmax"}}
        return make(label_of(setup, loss, batch), seed, batch=batch, examples=examples, **changes)

    return {
        label_of(setup, loss, batch): functools.partial(of, setup, loss, batch)
        for setup, (_, batches, _) in SETUPS.items()
        for batch in batches
        for loss in LOSSES
    }


def findings(results: Results) -> Findings:
    """A curve for each loss; where sigmoid is ahead."""
    tables, verdicts = [], []
    for setup, (_, batches, examples) in SETUPS.items():
        tables.append(
            Table(
                f"{setup}: zero-shot accuracy (%) and recall at 1 of texts to pictures (%) after {examples:,} pairs.",
                ("batch", "steps", *(f"{loss} {what}" for what in ("zero-shot", "R@1") for loss in LOSSES)),
                [
                    (
                        f"{batch:,}",
                        f"{examples // batch:,}",
                        *(
                            results.text(label_of(setup, loss, batch), "final", name, scale=100)
                            for name in ("zero_shot", "recall_at_1")
                            for loss in LOSSES
                        ),
                    )
                    for batch in batches
                ],
            )
        )
        verdicts += _verdicts(results, setup, batches)
    return Findings(tables, [Picture("batch_size", _CAPTION, functools.partial(_draw, results))], verdicts, _NOTES)


def _verdicts(results, setup, batches):
    values = {
        loss: {b: results.values(label_of(setup, loss, b), "final", "zero_shot") for b in batches} for loss in LOSSES
    }
    small_batches = [b for b in batches if b <= _SMALL[setup]]

    def mean(loss):
        seeds = set.intersection(*(set(values[loss][b]) for b in small_batches))
        return {seed: sum(values[loss][b][seed] for b in small_batches) / len(small_batches) for seed in seeds}

    found = [
        greater(
            f"{setup}: sigmoid is better than softmax at small batches (mean of {', '.join(map(str, small_batches))})",
            mean("sigmoid"),
            mean("softmax"),
        )
    ]
    # Either way: a softmax loss that is ahead at the largest batch is no gap that has closed.
    gaps = [
        {
            s: abs(values["sigmoid"][b][s] - values["softmax"][b][s])
            for s in values["sigmoid"][b]
            if s in values["softmax"][b]
        }
        for b in (batches[0], batches[-1])
    ]
    found.append(greater(f"{setup}: the gap closes as the batch grows ({batches[0]} to {batches[-1]})", *gaps))
    peak = _peak(values["sigmoid"])
    if peak is not None:
        inside = batches[0] < peak < batches[-1]
        found.append(
            Verdict(
                f"{setup}: with the same pairs seen, larger batches stop helping before the largest",
                SEEN if inside or peak == batches[0] else REVERSED,
                f"sigmoid is best at {peak:,} of {batches[0]:,} to {batches[-1]:,}",
            )
        )
    return found


def _peak(values):
    means = {b: Estimate.of(list(v.values())).mean for b, v in values.items() if v}
    return max(means, key=means.get) if len(means) == len(values) else None


def _draw(results, path):
    panels = []
    for setup, (_, batches, examples) in SETUPS.items():
        lines = [
            Line(loss, batches, [results.estimate(label_of(setup, loss, b), "final", "zero_shot") for b in batches], i)
            for i, loss in enumerate(LOSSES)
        ]
        panels.append(Panel(f"{setup}, {examples:,} pairs", "batch size", "zero-shot, %", lines, log_x=True, scale=100))
    draw(panels, path)


def paper_rows():
    """SigLiT at 18B examples, SigLIP at 9B."""
    found = []
    slices = {512: "v4:2x2x1", 4096: "v4:2x2x1", 16_384: "v4:2x2x4", 32_768: "v4:2x4x4", 98_304: "v4:4x4x4"}
    for loss in LOSSES:
        for batch in (512, 4096, 16_384, 32_768, 262_144, 1_048_576):
            chips = "v4:2x2x1" if batch <= 32_768 else "v4:2x2x4"
            label = f"SigLiT {loss} {batch:,}"
            found.append(PaperRow(label, "siglit", chips, batch, 18e9, {"loss": loss}, "million"))
        for batch, chips in slices.items():
            found.append(PaperRow(f"SigLIP {loss} {batch:,}", "siglip", chips, batch, 9e9, {"loss": loss}))
    return found


_CAPTION = "Zero-shot accuracy over batch size for the same number of pairs seen (mean and standard error over seeds)."
_NOTES = (
    "With a fixed number of pairs a larger batch takes fewer steps. The largest batches here have 12 (SigLiT) and 24 "
    "(SigLIP) steps where the paper's have tens of thousands, so that the fall on the right is that of Figure 3's "
    "short schedules, not that of Figure 2's one million.",
)

STUDY = Study(
    name="batch_size",
    title="Batch size, sigmoid against softmax",
    paper="Sections 4.1 and 4.2, Figure 2",
    question=(
        "The paper finds the sigmoid loss well ahead of the softmax loss below a batch of 16k, both alike above, and "
        "both saturated at 32k."
    ),
    setup=(
        "SigLiT: a text tower on the stored embeddings of a tower pretrained with German captions. SigLIP: both towers "
        "from scratch. One learning rate for all batch sizes, as in the paper."
    ),
    rows=rows,
    findings=findings,
    paper_rows=paper_rows,
)

if __name__ == "__main__":
    sys.exit(main([STUDY], STUDY.name))
