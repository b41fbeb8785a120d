"""Figure 7: corrupted training data, sigmoid against softmax.

python -m recipes.studies.noise
"""

from __future__ import annotations

import functools
import sys

from .batch_size import run
from .command import main
from .plots import Panel, draw, final_line
from .small import LOSSES
from .study import Findings, PaperRow, Picture, Results, Study, Table
from .verdict import advise, greater

BATCH = 256
PROBABILITIES = (0.25, 0.5)
KINDS = {
    "batch": "batch alignment",
    "image": "image",
    "text": "text",
    "image_text": "image & text",
    "image_text_batch": "image, text & batch",
}


def label_of(loss: str, kind: str, probability: float) -> str:
    """Returns the label of a row."""
    return f"{loss}, {KINDS[kind]} {probability:.0%}" if probability else f"{loss}, clean"


def rows():
    """Clean, and five corruptions at each probability, with both losses."""

    def of(loss, kind, probability, seed):
        changes = {"corruption": {"kind": kind, "probability": probability}} if probability else {}
        return run("SigLiT", loss, BATCH, seed, label_of(loss, kind, probability), **changes)

    return {
        label_of(loss, kind, p): functools.partial(of, loss, kind, p)
        for kind in KINDS
        for p in (0.0, *PROBABILITIES[::-1])
        for loss in LOSSES
    }


def findings(results: Results) -> Findings:
    """A panel for each corruption; who loses less."""
    table = Table(
        f"Zero-shot accuracy (%), batch {BATCH}.",
        ("corruption", *(f"{loss} {p:.0%}" for p in (0.0, *PROBABILITIES) for loss in LOSSES)),
        [
            (
                name,
                *(
                    results.text(label_of(loss, kind, p), "final", "zero_shot", scale=100)
                    for p in (0.0, *PROBABILITIES)
                    for loss in LOSSES
                ),
            )
            for kind, name in KINDS.items()
        ],
    )
    verdicts = [
        greater(
            f"{name} {p:.0%}: sigmoid loses less accuracy than softmax",
            _lost(results, "softmax", kind, p),
            _lost(results, "sigmoid", kind, p),
            rows=[label_of(loss, kind, q) for loss in LOSSES for q in (0.0, p)],
            headline=kind == "batch" and p == PROBABILITIES[-1],
        )
        for kind, name in KINDS.items()
        for p in PROBABILITIES
    ]
    picture = Picture("noise", _CAPTION, functools.partial(_draw, results))
    return Findings([table], [picture], verdicts, (), _advice(verdicts[1]))


def _lost(results, loss, kind, probability):
    clean = results.values(label_of(loss, kind, 0.0), "final", "zero_shot")
    corrupted = results.values(label_of(loss, kind, probability), "final", "zero_shot")
    return {seed: clean[seed] - value for seed, value in corrupted.items() if seed in clean}


def _advice(verdict):
    return advise(
        verdict,
        seen="Where many pairs are wrong, prefer the sigmoid loss.",
        not_seen="Wrong pairs are no reason to prefer the sigmoid loss.",
        smaller="Where many pairs are wrong, either loss will do.",
    )


def _draw(results, path):
    ps = (0.0, *PROBABILITIES)
    panels = []
    for kind, name in KINDS.items():
        if not any(results.of(label_of(loss, kind, p)) for loss in LOSSES for p in PROBABILITIES):
            continue
        lines = [
            final_line(results, loss, ps, functools.partial(label_of, loss, kind), colour)
            for colour, loss in enumerate(LOSSES)
        ]
        title = name[0].upper() + name[1:]
        panels.append(Panel(title, "share corrupted", "zero-shot, %", lines, scale=100))
    draw(panels, path)


def paper_rows():
    """M/16 and M, 16k, 3.6B examples; what is corrupted and how often changes no step's cost."""
    towers = {"image": "M/16", "text": "M"}
    return [
        PaperRow(f"{loss}, {name}, any probability", "siglip", "v4:2x2x4", 16_384, 3.6e9, {**towers, "loss": loss})
        for name in ("clean", *KINDS.values())
        for loss in LOSSES
    ]


_CAPTION = "Zero-shot accuracy over the probability of corruption, for the five corruptions (mean and standard error)."
STUDY = Study(
    name="noise",
    title="Robustness to noise",
    paper="Section 4.10, Figure 7",
    question="In the paper, models trained with the sigmoid loss keep more of their accuracy under every corruption.",
    setup=(
        f"SigLiT, batch {BATCH}, with the settings that were chosen on clean data. Pictures become uniform noise, "
        "which the frozen tower embeds; texts become random tokens, and alignments are shuffled, by the library's "
        "`Corruption`; in training alone."
    ),
    rows=rows,
    findings=findings,
    paper_rows=paper_rows,
)

if __name__ == "__main__":
    sys.exit(main([STUDY], STUDY.name))
