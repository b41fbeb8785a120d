"""Table 4: initial values of bias and temperature.

python -m recipes.studies.bias_init
"""

from __future__ import annotations

import functools
import itertools
import sys

from . import small
from .cell import Cell
from .command import main
from .plots import Line, Panel, draw
from .study import Findings, PaperRow, Picture, Results, Study, Table
from .verdict import NOT_SEEN, SEEN, Verdict, advise, greater, text_of

BATCH, EXAMPLES = 256, 65_536
TENTHS = 10

# label: (b, t, what the paper has for ImageNet, Pets and CIFAR-100)
ROWS = {
    "b n/a, t' = log 10": (None, 10.0, "62.0 / 81.8 / 59.9"),
    "b = -10, t' = log 10": (-10.0, 10.0, "63.0 / 82.4 / 61.0"),
    "b = -10, t' = log 1": (-10.0, 1.0, "61.0 / 80.0 / 60.4"),
    "b = 0, t' = log 10": (0.0, 10.0, "61.7 / 79.9 / 59.0"),
    "b = 0, t' = log 1": (0.0, 1.0, "53.7 / 73.2 / 53.8"),
}
BEST, WORST = "b = -10, t' = log 10", "b = 0, t' = log 1"
# What the reference has for the initial loss where every cosine is 0, by batch size.
REFERENCE = {256: 10.01, 4096: 10.19, 8192: 10.37, 32_768: 11.49}
INITIAL = "initial loss"
_CASES = [[-10.0, n] for n in REFERENCE] + [[0.0, n] for n in REFERENCE if n <= 8192]


def rows():
    """Five rows of training, and the loss at cosine 0."""

    def of(label, seed):
        bias, temperature, _ = ROWS[label]
        start = {"init_bias": bias, "init_temperature": temperature}
        return small.siglit(
            label,
            seed,
            batch=BATCH,
            examples=EXAMPLES,
            model=start,
            choose=[{"learning_rate": rate, **start} for rate in small.LEARNING_RATES],
            evaluate_at=(1 / TENTHS, 0.4, 0.7),
        )

    trained = {label: functools.partial(of, label) for label in ROWS}
    initial = Cell("initial_loss", {"cases": _CASES}, INITIAL)
    return {INITIAL: lambda seed: initial, **trained}


def findings(results: Results) -> Findings:
    """Tables, curves, and the paper's orderings."""
    pictures = [Picture("bias_init", _CAPTION, functools.partial(_draw, results))]
    if not any(results.of(label) for label in ROWS):
        pictures = []  # the initial loss alone draws nothing
    table = Table(
        f"Table 4. Zero-shot accuracy at the end and after a tenth of {EXAMPLES:,} pairs, batch {BATCH}; initial loss.",
        ("b, t'", "paper: INet / Pet / C100", "end", "a tenth", "R@1", "initial loss", "final b", "final t", "chosen"),
        [
            (
                label,
                paper,
                results.text(label, "final", "zero_shot", scale=100),
                text_of(results.first(label, "zero_shot").values(), scale=100),
                results.text(label, "final", "recall_at_1", scale=100),
                results.text(label, "initial_loss", digits=2),
                results.text(label, "final", "bias") if ROWS[label][0] is not None else "-",
                results.text(label, "final", "temperature"),
                results.chosen(label).split(",")[0],
            )
            for label, (_, _, paper) in ROWS.items()
        ],
    )
    tenths = {label: results.first(label, "zero_shot") for label in ROWS}
    losses = {label: _loss_at_tenth(results, label) for label in ROWS}
    final = {label: results.values(label, "final", "zero_shot") for label in ROWS}
    verdicts = [
        greater(
            "Within the first tenth of training, -10 / log 10 has a lower loss than 0 / log 1",
            losses[WORST],
            losses[BEST],
            rows=(WORST, BEST),
            matters=0.5,
            unit="nats a pair",
            scale=1,
            digits=2,
        ),
        greater(
            "After the first tenth of training, -10 / log 10 classifies better than 0 / log 1",
            tenths[BEST],
            tenths[WORST],
            rows=(WORST, BEST),
        ),
        *(
            greater(
                f"At the end, {BEST} is better than {label}",
                final[BEST],
                final[label],
                rows=(BEST, label),
                headline=label == WORST,
            )
            for label in ROWS
            if label != BEST
        ),
    ]
    return Findings(
        [table, *_initial_tables(results)], pictures, [*_initial_verdicts(results), *verdicts], (), _advice(verdicts[2])
    )


def _initial_tables(results):
    found = results.of(INITIAL)
    if not found:
        return []
    losses = {(b, n): loss for (b, n), loss in zip(_CASES, next(iter(found.values()))["losses"], strict=True)}
    return [
        Table(
            "Initial loss where every cosine is 0, from the library's own loss on as many pairs.",
            ("", *(f"n = {n:,}" for n in REFERENCE)),
            [
                ("reference, b = -10", *(f"{value:.2f}" for value in REFERENCE.values())),
                *(
                    (f"b = {b}", *(f"{losses[b, n]:,.2f}" if (b, n) in losses else "-" for n in REFERENCE))
                    for b in (-10, 0)
                ),
            ],
        )
    ]


def _initial_verdicts(results):
    for result in list(results.of(INITIAL).values())[:1]:
        found = {n: loss for (b, n), loss in zip(_CASES, result["losses"], strict=True) if b == -10}
        right = all(abs(found[n] - value) < 0.01 for n, value in REFERENCE.items())
        evidence = ", ".join(f"{loss:.2f} at {n:,}" for n, loss in found.items())
        claim = "The initial loss is the reference's at every batch size"
        yield Verdict(claim, SEEN if right else NOT_SEEN, evidence=evidence)


def _loss_at_tenth(results, label):
    """Returns the figure by seed, for runs that had not diverged by then."""
    found = {}
    for seed, result in results.of(label).items():
        steps, losses = result["curves"]["step"], result["curves"]["loss"]
        until = [loss for step, loss in zip(steps, losses, strict=True) if step <= result["steps"] / TENTHS]
        if until[-1] is not None:
            found[seed] = until[-1]
    return found


def _advice(verdict):
    return advise(
        verdict,
        seen="Keep the bias and start it at -10 with t = 10: b = 0 with t = 1 is still worse at the end of a run.",
        not_seen="In a run that is long enough the start of b and t is forgotten; choose it for the first steps.",
        smaller="With a learning rate chosen for it, the start of b and t matters little at the end of a run.",
    )


def _draw(results, path):
    loss, accuracy = [], []
    for colour, label in enumerate(ROWS):
        runs = list(results.of(label).values())
        if not runs:
            continue
        steps = max((run["curves"]["step"] for run in runs), key=len)
        losses = _mean([run["curves"]["loss"] for run in runs])
        loss.append(Line(label, [step * BATCH for step in steps], losses, colour, marks=False))
        accuracy.append(Line(label, *results.over_run(label, "zero_shot"), colour))
    draw(
        [
            Panel("Loss, mean of seeds", "pairs seen", "loss", loss, log_y=True),
            Panel("Zero-shot accuracy", "pairs seen", "%", accuracy, scale=100),
        ],
        path,
    )


def _mean(curves):
    """Returns the mean at each point; None after a run has diverged."""
    return [sum(values) / len(values) if None not in values else None for values in itertools.zip_longest(*curves)]


def paper_rows():
    """Base, 8k, 900M examples."""
    return [
        PaperRow(label, "siglip", "v4:2x2x2", 8192, 9e8, {"init_bias": bias, "init_temperature": t})
        for label, (bias, t, _) in ROWS.items()
    ]


_CAPTION = (
    "Loss and zero-shot accuracy over training for the five initializations of Table 4 (mean and standard error)."
)

STUDY = Study(
    name="bias_init",
    title="Bias and temperature at the start",
    paper="Section 4.9, Table 4",
    question=(
        "The n² - n negative pairs of a batch dominate the first steps unless the bias starts near the prior. The "
        "paper finds b = -10, t' = log 10 best on three data sets and b = 0, t' = log 1 far behind."
    ),
    setup=(
        f"SigLiT on stored embeddings, batch {BATCH:,}, {EXAMPLES:,} pairs, the five rows of Table 4, each with the "
        "learning rate that suits it best."
    ),
    rows=rows,
    findings=findings,
    paper_rows=paper_rows,
)

if __name__ == "__main__":
    sys.exit(main([STUDY], STUDY.name))
