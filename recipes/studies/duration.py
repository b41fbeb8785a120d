"""Figure 3: batch size by training duration (SigLiT).

python -m recipes.studies.duration
"""

from __future__ import annotations

import functools
import sys

from . import small
from .command import main
from .plots import Panel, draw, final_line
from .study import Findings, PaperRow, Picture, Results, Study, Table
from .verdict import advise, greater

BATCHES = (64, 256, 1024)
EXAMPLES = (16_384, 65_536, 262_144)


def label_of(batch: int, examples: int) -> str:
    """Returns the label of a row."""
    return f"SigLiT, batch {batch}, {examples:,} pairs"


def rows():
    """All batches at all durations."""

    def of(batch, examples, seed):
        return small.siglit(
            label_of(batch, examples),
            seed,
            batch=batch,
            examples=examples,
            choose=small.options("sigmoid", batch),
        )

    return {label_of(b, e): functools.partial(of, b, e) for e in EXAMPLES for b in BATCHES}


def findings(results: Results) -> Findings:
    """One curve for each batch; what a large batch gains from time."""
    table = Table(
        "Zero-shot accuracy (%) by pairs seen.",
        ("batch", *(f"{e:,} pairs" for e in EXAMPLES)),
        [
            (f"{b:,}", *(results.text(label_of(b, e), "final", "zero_shot", scale=100) for e in EXAMPLES))
            for b in BATCHES
        ],
    )

    def gain(batch):
        first, last = (results.values(label_of(batch, e), "final", "zero_shot") for e in (EXAMPLES[0], EXAMPLES[-1]))
        return {seed: last[seed] - first[seed] for seed in last if seed in first}

    value = {(b, e): results.values(label_of(b, e), "final", "zero_shot") for b in BATCHES for e in EXAMPLES}
    low, high = BATCHES[0], BATCHES[-1]
    verdicts = [
        greater(
            f"In the shortest schedule batch {low} is ahead of batch {high}: few steps are not enough to ramp up",
            value[low, EXAMPLES[0]],
            value[high, EXAMPLES[0]],
            rows=[label_of(b, EXAMPLES[0]) for b in (low, high)],
        ),
        greater(
            f"Batch {high} gains more from a longer schedule than batch {low}",
            gain(high),
            gain(low),
            rows=[label_of(b, e) for b in (low, high) for e in (EXAMPLES[0], EXAMPLES[-1])],
            headline=True,
        ),
        greater(
            f"In the longest schedule batch {high} is ahead of batch {low}",
            value[high, EXAMPLES[-1]],
            value[low, EXAMPLES[-1]],
            rows=[label_of(b, EXAMPLES[-1]) for b in (low, high)],
        ),
    ]
    picture = Picture("duration", _CAPTION, functools.partial(_draw, results))
    return Findings([table], [picture], verdicts, _NOTES, _advice(verdicts[1]))


def _advice(verdict):
    return advise(
        verdict,
        seen="A large batch pays only in a long run: take a smaller one where its steps are a few hundred.",
        not_seen="A large batch is no disadvantage in a short run.",
        smaller="Batch size matters little at any of these durations.",
    )


def _draw(results, path):
    lines = [
        final_line(results, f"batch {b:,}", EXAMPLES, functools.partial(label_of, b), colour)
        for colour, b in enumerate(BATCHES)
    ]
    draw([Panel("SigLiT, sigmoid loss", "pairs seen", "zero-shot, %", lines, log_x=True, scale=100)], path)


def paper_rows():
    """8k and 262k over durations up to 18B."""
    return [
        PaperRow(f"SigLiT {batch:,}, {examples / 1e9:g}B examples", "siglit", chips, batch, examples, {}, "million")
        for batch, chips in ((8192, "v4:2x2x1"), (32_768, "v4:2x2x1"), (262_144, "v4:2x2x4"))
        for examples in (0.45e9, 0.9e9, 3e9, 9e9, 18e9)
    ]


_CAPTION = (
    "Zero-shot accuracy over the number of pairs seen, each point a run with its own schedule (mean, standard error)."
)
_NOTES = (
    f"Every duration is a run of its own with a cosine that ends there. The longest gives the largest batch "
    f"{EXAMPLES[-1] // BATCHES[-1]} steps; the paper's 262k has 69 thousand.",
)
STUDY = Study(
    name="duration",
    title="Training duration",
    paper="Section 4.1, Figure 3",
    question=(
        "A large batch needs a long schedule: the paper's 262k is behind 8k in short runs and significantly ahead in "
        "long ones."
    ),
    setup="SigLiT on stored embeddings, sigmoid loss; settings chosen for each batch and duration.",
    rows=rows,
    findings=findings,
    paper_rows=paper_rows,
)

if __name__ == "__main__":
    sys.exit(main([STUDY], STUDY.name))
