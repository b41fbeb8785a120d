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
from .verdict import advise, close, greater

BATCH, EXAMPLES = 256, 131_072
LENGTH = 24
WIDTH, BOTTLENECK = 64, 8  # an eighth of the width, as 96 is of 768
MARGIN = 0.02
LARGE, SMALL = 1_500, 300  # pieces at most: as 250k is to 32k, the words of all languages against parts of them
WHOLE, NARROW, FEW = "large vocabulary", f"large vocabulary, bottleneck {BOTTLENECK}", "small vocabulary"


def rows():
    """Large vocabulary, with bottleneck, and small vocabulary."""

    def of(label, vocabulary, bottleneck, seed):
        text = {"languages": list(small.LANGUAGES), "vocabulary": vocabulary, "length": LENGTH}
        model = {"token_bottleneck": bottleneck} if bottleneck else {}
        model |= {"text_width": WIDTH, "text_mlp_dim": 2 * WIDTH, "text_heads": 4, "init_bias": small.prior(BATCH)}
        rates = [{"learning_rate": rate} for rate in small.LEARNING_RATES]
        return small.siglit(label, seed, batch=BATCH, examples=EXAMPLES, text=text, model=model, choose=rates)

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
        close(
            f"The bottleneck keeps the quality within {100 * MARGIN:g} points",
            final[NARROW],
            final[WHOLE],
            MARGIN,
            rows=(NARROW, WHOLE),
            headline=True,
        ),
        greater("The large vocabulary is better than the small one", final[WHOLE], final[FEW], rows=(WHOLE, FEW)),
    ]
    picture = Picture("bottleneck", _CAPTION, functools.partial(_draw, results))
    return Findings([table, by_language], [picture], verdicts, (), _advice(verdicts[0]))


def _language(results, label, language, name):
    return results.text(label, "final", "by_language", language, name, scale=100)


def _advice(verdict):
    return advise(
        verdict,
        seen="A bottleneck of an eighth of the width is a fair way to save a large vocabulary's table.",
        not_seen="A bottleneck of an eighth of the width costs more than the paper's half percent: take a wider one.",
        smaller="A bottleneck of an eighth of the width is a fair way to save a large vocabulary's table.",
    )


def _draw(results, path):
    panels = []
    for name, title in (("zero_shot", "Zero-shot accuracy"), ("recall_at_1", "Text to image, R@1")):
        lines = []
        for colour, label in enumerate((WHOLE, NARROW, FEW)):
            if results.of(label):
                ys = [results.estimate(label, "final", "by_language", language, name) for language in small.LANGUAGES]
                lines.append(Line(label, [i + 0.12 * (colour - 1) for i in range(len(ys))], ys, colour))
        panels.append(Panel(title, "", "%", lines, scale=100, x_names=small.LANGUAGES, y_range=(0, None)))
    draw(panels, path)


def paper_rows():
    """B, 250k pieces with K = 96 and whole, and 32k pieces; 900M examples."""
    return [
        PaperRow("250k pieces, K = 96, 0.9B examples", "msiglip", "v4:2x4x4", 32_768, 9e8, setup="k96"),
        PaperRow("250k pieces, whole table, 0.9B examples", "msiglip", "v4:2x4x4", 32_768, 9e8, setup="full"),
        PaperRow("32k pieces, 0.9B examples", "msiglip", "v4:2x4x4", 32_768, 9e8, setup="small"),
    ]


_PAPER_XM = {"de": "54.8", "en": "46.2", "zh": "32.5"}
_CAPTION = (
    "Accuracy by language with a large vocabulary, through a bottleneck, and with a small one (mean, standard error)."
)

STUDY = Study(
    name="bottleneck",
    title="Many languages through a narrow table",
    paper="Section 4.3",
    question=(
        "A table of 250k tokens by the text tower's width is large. The paper trains a narrow one (K = 96 for a "
        "width of 768) with a projection behind it and sees about half a percent drop; a small vocabulary of 32k "
        "costs more than 1 %."
    ),
    setup=(
        "SigLiT on captions in six languages (hand-written grammars of English, German, Spanish, French, "
        f"Turkish and Chinese), one caption of one language a picture and step; width {WIDTH}, K = {BOTTLENECK}; each "
        "with the learning rate that suits it best."
    ),
    rows=rows,
    findings=findings,
    paper_rows=paper_rows,
)

if __name__ == "__main__":
    sys.exit(main([STUDY], STUDY.name))
