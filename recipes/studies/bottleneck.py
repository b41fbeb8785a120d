"""Section 4.3 and Table 2: a large multilingual vocabulary, whole and through a bottleneck.

python -m recipes.studies.bottleneck
"""

from __future__ import annotations

import functools
import sys

from . import small
from .command import main
from .plots import Line, Panel, draw
from .study import Findings, PaperRow, Picture, Results, Study, Table
from .verdict import close, greater

BATCH, EXAMPLES = 64, 98_304
LENGTH = 24
BOTTLENECK = 8  # an eighth of the width, as 96 is of 768
LARGE, SMALL = 2_000, 400  # pieces at most: as 250k is to 32k, the words of all languages against parts of them
WHOLE, NARROW, FEW = "large vocabulary", f"large vocabulary, bottleneck {BOTTLENECK}", "small vocabulary"


def rows():
    """Large vocabulary, with bottleneck, and small vocabulary."""

    def of(label, vocabulary, bottleneck, seed):
        text = {"languages": list(small.LANGUAGES), "vocabulary": vocabulary, "length": LENGTH}
        model = {"token_bottleneck": bottleneck} if bottleneck else {}
        return small.cell(label, seed, batch=BATCH, examples=EXAMPLES, text=text, model=model)

    return {
        label: functools.partial(of, label, vocabulary, k)
        for label, vocabulary, k in ((WHOLE, LARGE, None), (NARROW, LARGE, BOTTLENECK), (FEW, SMALL, None))
    }


def findings(results: Results) -> Findings:
    """Accuracy by vocabulary, and by language."""
    labels = (WHOLE, NARROW, FEW)
    final = {label: results.values(label, "final", "zero_shot") for label in labels}
    table = Table(
        f"Mean over six languages after {EXAMPLES:,} pairs, batch {BATCH}. The paper: slightly more than 1 % better "
        "with 250k than with 32k pieces, about half a percent lost by the bottleneck (INet-0).",
        ("text tower", "parameters", "zero-shot, %", "R@1, %", "R@5, %"),
        [
            (
                label,
                results.text(label, "parameters", digits=0),
                *(
                    results.text(label, "final", name, scale=100)
                    for name in ("zero_shot", "recall_at_1", "recall_at_5")
                ),
            )
            for label in labels
        ],
    )
    by_language = Table(
        "By language: zero-shot accuracy and recall at 1 of texts to pictures (%), beside the paper's R@1 on XM3600 "
        "(Table 2, 32k).",
        ("language", *(f"{label}: zero-shot" for label in labels), *(f"{label}: R@1" for label in labels), "paper R@1"),
        [
            (
                language,
                *(_language(results, label, language, "zero_shot") for label in labels),
                *(_language(results, label, language, "recall_at_1") for label in labels),
                _PAPER_XM.get(language, "-"),
            )
            for language in small.LANGUAGES
        ],
    )
    verdicts = [
        close("The bottleneck costs little (5 points)", final[NARROW], final[WHOLE], 0.05),
        greater("The bottleneck costs something", final[WHOLE], final[NARROW]),
        greater("The large vocabulary is better than the small one", final[WHOLE], final[FEW]),
    ]
    picture = Picture("bottleneck", _CAPTION, functools.partial(_draw, results))
    return Findings([table, by_language], [picture], verdicts)


def _language(results, label, language, name):
    return results.text(label, "final", "by_language", language, name, scale=100)


def _draw(results, path):
    panels = []
    for name, title in (("zero_shot", "Zero-shot accuracy"), ("recall_at_1", "Text to image, R@1")):
        lines = []
        for colour, label in enumerate((WHOLE, NARROW, FEW)):
            if results.of(label):
                ys = [results.estimate(label, "final", "by_language", language, name) for language in small.LANGUAGES]
                lines.append(Line(label, [i + 0.12 * (colour - 1) for i in range(len(ys))], ys, colour))
        panels.append(
            Panel(
                title, "", "%", lines, scale=100, x_names=small.LANGUAGES, legend=name == "zero_shot", y_range=(0, None)
            )
        )
    draw(panels, path)


def paper_rows():
    """B, 250k pieces with K = 96 and whole, and 32k pieces; 900M examples, and 30B for Table 2."""
    found = [
        PaperRow("250k pieces, K = 96, 0.9B examples", "msiglip", "v4:2x4x4", 32_768, 9e8, setup="k96"),
        PaperRow("250k pieces, whole table, 0.9B examples", "msiglip", "v4:2x4x4", 32_768, 9e8, setup="full"),
        PaperRow("32k pieces, 0.9B examples", "msiglip", "v4:2x4x4", 32_768, 9e8, setup="small"),
    ]
    for batch, chips in ((16_384, "v4:2x2x4"), (32_768, "v4:2x4x4"), (65_536, "v4:4x4x4")):
        found.append(PaperRow(f"Table 2, {batch // 1024}k, 30B examples", "msiglip", chips, batch, 30e9, setup="k96"))
    return found


_PAPER_XM = {"de": "54.8", "en": "46.2", "zh": "32.5"}
_CAPTION = (
    "Accuracy by language with a large vocabulary, through a bottleneck, and with a small one (mean, standard error)."
)

STUDY = Study(
    name="bottleneck",
    title="Many languages through a narrow table",
    paper="Section 4.3, Table 2",
    question=(
        "A table of 250k tokens by the text tower's width is large. The paper trains a narrow one (K = 96 for a "
        "width of 768) with a projection behind it and sees about half a percent drop; a small vocabulary of 32k "
        "costs more than 1 %."
    ),
    setup=(
        "SigLIP from scratch on captions in six languages (hand-written grammars of English, German, Spanish, French, "
        f"Turkish and Chinese), one caption of one language a picture and step; width 64, K = {BOTTLENECK}."
    ),
    rows=rows,
    findings=findings,
    paper_rows=paper_rows,
)

if __name__ == "__main__":
    sys.exit(main([STUDY], STUDY.name))
