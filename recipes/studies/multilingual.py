"""Figure 2, right, and Table 2: the batch size with captions in six languages.

python -m recipes.studies.multilingual
"""

from __future__ import annotations

import functools
import sys

from . import small
from .command import main
from .plots import Panel, draw, final_line
from .study import Findings, PaperRow, Picture, Results, Study, Table
from .verdict import advise, greater

BATCHES, EXAMPLES = (16, 64, 256, 1024), 131_072
TEXT = {"languages": list(small.LANGUAGES), "vocabulary": 1_500, "length": 24}
WIDTH = 64
FIGURES = {"zero_shot": "zero-shot", "recall_at_1": "R@1"}


def label_of(batch: int) -> str:
    """Returns the label of a row."""
    return f"mSigLiT, batch {batch}"


def rows():
    """The sigmoid loss at four batch sizes."""

    def of(batch, seed):
        model = {"text_width": WIDTH, "text_mlp_dim": 2 * WIDTH, "text_heads": 4}
        chosen_from = small.options("sigmoid", batch)
        return small.siglit(
            label_of(batch), seed, batch=batch, examples=EXAMPLES, text=TEXT, model=model, choose=chosen_from
        )

    return {label_of(batch): functools.partial(of, batch) for batch in BATCHES}


def findings(results: Results) -> Findings:
    """Accuracy by batch, mean and by language."""
    table = Table(
        f"Mean over six languages after {EXAMPLES:,} pairs (%), and recall at 1 of texts to pictures by language. "
        "Paper (Table 2): INet-0 71.6 at 16k, 73.2 at 32k to 128k, 73.1 at 240k; XM average 34.8, 34.9, 34.4, 33.6, "
        "32.7.",
        ("batch", *FIGURES.values(), *(f"R@1 {name}" for name in small.LANGUAGES), "chosen"),
        [
            (
                f"{b:,}",
                *(results.text(label_of(b), "final", name, scale=100) for name in FIGURES),
                *(
                    results.text(label_of(b), "final", "by_language", name, "recall_at_1", scale=100)
                    for name in small.LANGUAGES
                ),
                results.chosen(label_of(b)),
            )
            for b in BATCHES
        ],
    )
    before, last = BATCHES[-2:]
    verdicts = [
        greater(
            f"Retrieval is saturated: batch {before:,} is ahead of batch {last:,}, {shown}",
            *(results.values(label_of(b), "final", name) for b in (before, last)),
            rows=[label_of(b) for b in (before, last)],
            headline=name == "recall_at_1",
        )
        for name, shown in FIGURES.items()
    ]
    picture = Picture("multilingual", _CAPTION, functools.partial(_draw, results))
    return Findings([table], [picture], verdicts, (), _advice(verdicts[0]))


def _advice(verdict):
    return advise(
        verdict,
        seen="Several languages need no larger batch than one.",
        not_seen="With several languages a larger batch helps retrieval.",
        smaller="With several languages the largest batch gives retrieval nothing.",
    )


def _draw(results, path):
    panels = []
    for name, shown in FIGURES.items():
        lines = [final_line(results, "mean of six languages", BATCHES, label_of, figure=name)]
        panels.append(Panel(f"Six languages, {shown}", "batch size", f"{shown}, %", lines, log_x=True, scale=100))
    draw(panels, path, columns=2)


def paper_rows():
    """Table 2: 30B examples, 250k pieces through a bottleneck of 96."""
    return [
        PaperRow(f"Table 2, {batch // 1024}k, 30B examples", "msiglip", chips, batch, 30e9, setup="k96")
        for batch, chips in ((16_384, "v4:2x2x4"), (32_768, "v4:2x4x4"), (65_536, "v4:4x4x4"))
    ]


_CAPTION = "Mean accuracy over six languages by batch size (mean and standard error over seeds)."
STUDY = Study(
    name="multilingual",
    title="Batch size with many languages",
    paper="Section 4.3, Figure 2 (right), Table 2",
    question=(
        "The paper trains on a hundred languages and finds 32k sufficient: beyond it retrieval gets worse and ImageNet "
        "accuracy stays flat."
    ),
    setup=(
        "SigLiT on captions in six languages, one caption of one language a picture and step; the text tower has twice "
        "the width of the other studies'."
    ),
    rows=rows,
    findings=findings,
    paper_rows=paper_rows,
)

if __name__ == "__main__":
    sys.exit(main([STUDY], STUDY.name))
