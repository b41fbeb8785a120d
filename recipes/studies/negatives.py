"""Figure 6: which negatives count, and how many of them (SigLiT).

python -m recipes.studies.negatives
"""

from __future__ import annotations

import functools
import sys

from .batch_size import SETUPS, run
from .command import main
from .plots import Line, Panel, draw
from .study import Findings, PaperRow, Picture, Results, Study, Table
from .verdict import advise, close, greater

BATCH, EXAMPLES = 256, SETUPS["SigLiT"][2]
ALL = BATCH - 1
RATIOS = (64, 1.6)  # the paper's strongest masking is 1 : 1.6
MATCHED = 64  # there a quarter of the pairs is left: four times the steps
KINDS = ("random", "hardest", "easiest")
FULL = f"all, 1:{ALL}"
MATCHED_LABEL = f"hardest, 1:{MATCHED}, matched pairs"


def label_of(kind: str, ratio: float) -> str:
    """Returns the label of a row."""
    return f"{kind}, 1:{ratio:g}"


def rows():
    """All negatives, three maskings at each ratio, and the hardest for longer."""

    def of(label, negatives, examples, seed):
        # XLA's sort of a batch's pairs is slower than TensorFlow's.
        changes = {"model": {"negatives": negatives}, "jit": False} if negatives else {}
        return run("SigLiT", "sigmoid", BATCH, seed, label, examples=examples, **changes)

    found = {FULL: functools.partial(of, FULL, None, EXAMPLES)}
    for ratio in RATIOS:
        for kind in KINDS:
            label = label_of(kind, ratio)
            found[label] = functools.partial(of, label, {"keep": kind, "ratio": ratio}, EXAMPLES)
    longer = EXAMPLES * round(BATCH / MATCHED)
    found[MATCHED_LABEL] = functools.partial(of, MATCHED_LABEL, {"keep": "hardest", "ratio": MATCHED}, longer)
    return found


def findings(results: Results) -> Findings:
    """Accuracy, bias and logits by kind and ratio."""
    labels = [FULL, *(label_of(kind, ratio) for ratio in RATIOS for kind in KINDS), MATCHED_LABEL]
    table = Table(
        f"Zero-shot accuracy (%), final bias and temperature, mean logits at the end; batch {BATCH}, {EXAMPLES:,} "
        "pairs of image and text (four times as many where pairs are matched).",
        ("negatives kept", "zero-shot", "final b", "final t", "positive logit", "negative logit"),
        [
            (
                label,
                results.text(label, "final", "zero_shot", scale=100),
                *(
                    results.text(label, "final", name)
                    for name in ("bias", "temperature", "positive_logit", "negative_logit")
                ),
            )
            for label in labels
        ],
    )
    final = {label: results.values(label, "final", "zero_shot") for label in labels}
    bias = {label: results.values(label, "final", "bias") for label in labels}
    strongest = RATIOS[-1]
    verdicts = []
    for ratio in RATIOS:
        hard, easy, random = (label_of(kind, ratio) for kind in ("hardest", "easiest", "random"))
        verdicts += [
            *(
                greater(f"At 1:{ratio:g}, {claim}", final[better], final[worse], rows=(better, worse))
                for claim, better, worse in (
                    ("the easiest negatives alone fail beside all", FULL, easy),
                    ("random negatives are worse than all", FULL, random),
                    ("the hardest are better than random ones", hard, random),
                )
            ),
            close(
                f"At 1:{ratio:g}, the hardest keep the quality of all within 3 points",
                final[hard],
                final[FULL],
                0.03,
                rows=(hard, FULL),
                headline=ratio == RATIOS[0],
            ),
        ]
    verdicts += [
        greater(
            "The hardest with matched pairs are better than the hardest without",
            final[MATCHED_LABEL],
            final[label_of("hardest", MATCHED)],
            rows=(MATCHED_LABEL, label_of("hardest", MATCHED)),
        ),
        greater(
            "With fewer (random) negatives the bias ends higher",
            bias[label_of("random", strongest)],
            bias[FULL],
            rows=(label_of("random", strongest), FULL),
            matters=0.2,
            unit="",
            scale=1,
        ),
    ]
    picture = Picture("negatives", _CAPTION, functools.partial(_draw, results))
    return Findings([table], [picture], verdicts, _NOTES, _advice(verdicts[3]))


def _advice(verdict):
    return advise(
        verdict,
        seen="Where negatives must be thinned out, keep the hardest.",
        not_seen="Leave all negatives in: also the hardest alone are worse.",
        smaller="Leave all negatives in.",
    )


def _draw(results, path):
    xs = (*RATIOS[::-1], ALL)

    def lines(name):
        found = [
            Line(
                kind,
                xs,
                [
                    *(results.estimate(label_of(kind, r), "final", name) for r in RATIOS[::-1]),
                    results.estimate(FULL, "final", name),
                ],
                colour,
            )
            for colour, kind in enumerate(KINDS)
            if any(results.of(label_of(kind, r)) for r in RATIOS)
        ]
        if not results.of(MATCHED_LABEL):
            return found
        matched = Line("hardest, matched", [MATCHED], [results.estimate(MATCHED_LABEL, "final", name)], 3)
        return [*found, matched]

    label = "negatives for each positive"
    draw(
        [
            Panel("Zero-shot accuracy", label, "%", lines("zero_shot"), log_x=True, scale=100),
            Panel("Final bias", label, "b", lines("bias"), log_x=True),
            Panel("Mean logit, positive pairs", label, "logit", lines("positive_logit"), log_x=True),
            Panel("Mean logit, negative pairs", label, "logit", lines("negative_logit"), log_x=True),
        ],
        path,
        columns=2,
    )


def paper_rows():
    """SigLiT as in section 4.1, 16k, 900M examples, negatives 1:16k to 1:1.6."""

    def row(label, examples, **changes):
        return PaperRow(label, "siglit", "v4:2x2x1", 16_384, examples, changes, "million")

    found = [row("all, 1:16k", 9e8)]
    for ratio in (1638.4, 163.84, 16.384, 1.6384):
        for kind in KINDS:
            found.append(row(f"{kind}, 1:{ratio:g}", 9e8, negatives={"keep": kind, "ratio": ratio}))
    for ratio in (1638.4, 163.84):
        longer = 9e8 * 16_384 / ratio
        label = f"hardest, 1:{ratio:g}, matched pairs"
        found.append(row(label, longer, negatives={"keep": "hardest", "ratio": ratio}))
    return found


_CAPTION = "Zero-shot accuracy, final bias and mean logits over the number of negatives kept (mean and standard error)."
_NOTES = (
    "Mean logits are over all pairs of the batch, masked or not, so that the rows can be compared. The paper says "
    '"900M steps" for this study; a batch of 16k makes it examples.',
)

STUDY = Study(
    name="negatives",
    title="Which negatives count",
    paper="Section 4.8, Figure 6",
    question=(
        "Masking negatives in the paper: random ones deteriorate, the easiest do not work at all, the hardest almost "
        "keep the quality, and gain where training is longer by as much as was masked. Bias and logits rise as "
        "negatives become fewer."
    ),
    setup=(
        f"SigLiT on stored embeddings, batch {BATCH}, with the settings that were chosen for all negatives; the masks "
        "are the library's (`SigLIP(negatives=...)`)."
    ),
    rows=rows,
    findings=findings,
    paper_rows=paper_rows,
)

if __name__ == "__main__":
    sys.exit(main([STUDY], STUDY.name))
