"""Studies whether leaving out pairs of equal captions helps. The paper does not test this.

python -m recipes.studies.equal_captions
"""

from __future__ import annotations

import functools
import sys

from .batch_size import FIGURES, run
from .command import main
from .plots import Panel, draw, final_line
from .small import LOSSES
from .study import Findings, Picture, Results, Study, Table
from .verdict import advise, greater

BATCH = 256
HANDLED = ("negative", "ignore", "positive")
SHARES = (0.0, 0.3)  # of captions that are one of ten generic ones


def label_of(loss: str, handled: str, share: float) -> str:
    """Returns the label of a row."""
    return f"{loss}, equal captions {handled}, {share:.0%} generic"


def rows():
    """Both losses, three ways to handle equal captions, few and many of them."""

    def of(loss, handled, share, seed):
        changes = {"model": {"equal_captions": handled}} if handled != "negative" else {}
        if share:
            changes["noise"] = {"generic": share}
        return run("SigLiT", loss, BATCH, seed, label_of(loss, handled, share), **changes)

    return {
        label_of(loss, handled, share): functools.partial(of, loss, handled, share)
        for share in SHARES[::-1]
        for handled in HANDLED
        for loss in LOSSES
    }


def findings(results: Results) -> Findings:
    """Accuracy by what equal captions count as."""
    table = Table(
        f"Accuracy (%), batch {BATCH}, by what pairs of equal captions count as.",
        ("generic captions", "equal captions", *(f"{loss} {shown}" for shown in FIGURES.values() for loss in LOSSES)),
        [
            (
                f"{share:.0%}",
                handled,
                *(
                    results.text(label_of(loss, handled, share), "final", name, scale=100)
                    for name in FIGURES
                    for loss in LOSSES
                ),
            )
            for share in SHARES
            for handled in HANDLED
        ],
    )
    verdicts = [
        greater(
            f"{loss}, {share:.0%} generic captions: leaving out equal captions is better than negatives",
            *(
                results.values(label_of(loss, handled, share), "final", "zero_shot")
                for handled in ("ignore", "negative")
            ),
            rows=[label_of(loss, handled, share) for handled in ("ignore", "negative")],
            headline=loss == "sigmoid" and share == SHARES[-1],
        )
        for share in SHARES[::-1]
        for loss in LOSSES
    ]
    picture = Picture("equal_captions", _CAPTION, functools.partial(_draw, results))
    return Findings([table], [picture], verdicts, (), _advice(verdicts[0]))


def _advice(verdict):
    return advise(
        verdict,
        seen='With many generic captions set `equal_captions="ignore"`.',
        not_seen='Keep `equal_captions="negative"`, also with many generic captions.',
        smaller='Keep `equal_captions="negative"`, the default: leaving equal captions out changes little.',
    )


def _draw(results, path):
    panels = []
    for share in SHARES:
        lines = [
            final_line(
                results, loss, HANDLED, lambda handled, loss=loss, share=share: label_of(loss, handled, share), colour
            )
            for colour, loss in enumerate(LOSSES)
        ]
        panels.append(
            Panel(f"{share:.0%} generic captions", "equal captions", "zero-shot, %", lines, scale=100, x_names=HANDLED)
        )
    draw(panels, path, columns=2)


_CAPTION = "Zero-shot accuracy by what pairs of equal captions count as (mean and standard error over seeds)."
STUDY = Study(
    name="equal_captions",
    title="Does it help to leave out equal captions?",
    paper="Not in the paper; section 3 calls the assumption noisy and imperfect",
    question=(
        "Every pair of a picture and another picture's caption is a negative, also where the two captions are equal. "
        "`SigLIP(equal_captions=...)` can leave such pairs out or make positives of them."
    ),
    setup=f"SigLiT, batch {BATCH}, with the settings that were chosen for the paper's form on clean captions.",
    rows=rows,
    findings=findings,
)

if __name__ == "__main__":
    sys.exit(main([STUDY], STUDY.name))
