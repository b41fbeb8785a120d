"""Does noise explain when sigmoid wins? The two losses on captions with the faults of the web (not in the paper).

python -m recipes.studies.web_captions
"""

from __future__ import annotations

import functools
import sys

from . import batch_size
from .batch_size import paired, run
from .command import main
from .plots import Panel, draw, final_line
from .small import LOSSES
from .study import Findings, Picture, Results, Study, Table
from .verdict import advise, greater

BATCHES = (64, 1024)
# Shares of captions: from another picture, generic, empty; and of pictures that are shown again.
LEVELS = {
    "clean": None,
    "some faults": {"mismatched": 0.15, "generic": 0.1, "empty": 0.05, "repeated": 0.1},
    "many faults": {"mismatched": 0.35, "generic": 0.15, "empty": 0.1, "repeated": 0.2},
}


def label_of(loss: str, batch: int, level: str) -> str:
    """Returns the label of a row."""
    return f"{loss}, batch {batch}, {level}"


def rows():
    """Both losses at a small and a large batch, with rising noise; the clean rows are those of the batch size study."""

    def of(loss, batch, level, seed):
        noise = {} if LEVELS[level] is None else {"noise": LEVELS[level]}
        label = batch_size.label_of("SigLiT", loss, batch) if level == "clean" else label_of(loss, batch, level)
        return run("SigLiT", loss, batch, seed, label, **noise)

    return {
        label_of(loss, batch, level): functools.partial(of, loss, batch, level)
        for batch in BATCHES
        for level in reversed(LEVELS)
        for loss in LOSSES
    }


def findings(results: Results) -> Findings:
    """Accuracy by noise; whether the difference between the losses grows with it."""
    names = batch_size.FIGURES
    table = Table(
        "Accuracy (%) by the faults of the training captions; evaluated on clean ones.",
        ("batch", "captions", *(f"{loss} {shown}" for shown in names.values() for loss in LOSSES)),
        [
            (
                f"{batch:,}",
                level,
                *(
                    results.text(label_of(loss, batch, level), "final", name, scale=100)
                    for name in names
                    for loss in LOSSES
                ),
            )
            for batch in BATCHES
            for level in LEVELS
        ],
    )
    shares = Table(
        "Faults: shares of captions and of pictures (%).",
        ("captions", "from another picture", "generic", "empty", "picture shown again"),
        [(level, *(f"{100 * (faults or {}).get(name, 0):g}" for name in _FAULTS)) for level, faults in LEVELS.items()],
    )
    clean, *_, worst = LEVELS
    verdicts = []
    for batch in BATCHES:
        gap = {
            level: paired(*(results.values(label_of(loss, batch, level), "final", "zero_shot") for loss in LOSSES))
            for level in (clean, worst)
        }
        rows_of = [label_of(loss, batch, level) for loss in LOSSES for level in (clean, worst)]
        verdicts += [
            greater(
                f"Batch {batch:,}, {worst}: sigmoid is better than softmax",
                *(results.values(label_of(loss, batch, worst), "final", "zero_shot") for loss in LOSSES),
                rows=rows_of[1::2],
                headline=batch == BATCHES[0],
            ),
            greater(
                f"Batch {batch:,}: sigmoid gains on softmax as captions get worse ({clean} to {worst})",
                gap[worst],
                gap[clean],
                rows=rows_of,
            ),
        ]
    picture = Picture("web_captions", _CAPTION, functools.partial(_draw, results))
    return Findings([table, shares], [picture], verdicts, (), _advice(verdicts[0]))


def _advice(verdict):
    return advise(
        verdict,
        seen="With faulty captions and a small batch prefer the sigmoid loss.",
        not_seen="Faulty captions are no reason to prefer the sigmoid loss.",
        smaller="Do not choose the loss by how noisy the captions are.",
    )


def _draw(results, path):
    panels = []
    for batch in BATCHES:
        lines = [
            final_line(results, loss, tuple(LEVELS), functools.partial(label_of, loss, batch), colour)
            for colour, loss in enumerate(LOSSES)
        ]
        panels.append(Panel(f"Batch {batch:,}", "", "zero-shot, %", lines, scale=100, x_names=tuple(LEVELS)))
    draw(panels, path, columns=2)


_FAULTS = ("mismatched", "generic", "empty", "repeated")
_CAPTION = "Zero-shot accuracy by the faults of the training captions (mean and standard error over seeds)."
STUDY = Study(
    name="web_captions",
    title="Does noise explain when sigmoid wins?",
    paper="Not in the paper; its data are from the web",
    question=(
        "The paper's captions are from the web and noisy, and its loss is said to be robust. If noise were the reason "
        "why sigmoid wins at small batches, the difference would grow with the noise."
    ),
    setup=(
        "SigLiT at two batch sizes, with the settings that were chosen on clean captions. A share of the training "
        "captions is from another picture, generic (`untitled`) or empty, and a share of the pictures is shown again "
        "with other words (`siglip_tf.synthetic.WebNoise`)."
    ),
    rows=rows,
    findings=findings,
)

if __name__ == "__main__":
    sys.exit(main([STUDY], STUDY.name))
