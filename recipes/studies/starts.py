"""How the starts of t and b interact with the batch size (not in the paper, which has one batch in Table 4).

python -m recipes.studies.starts
"""

from __future__ import annotations

import functools
import itertools
import sys

from . import small
from .command import main
from .plots import Panel, draw, final_line
from .study import Findings, Picture, Results, Study, Table
from .verdict import advise, greater

BATCHES, EXAMPLES = (16, 256, 1024), 65_536
BIASES = ("0", "prior", "-10")
TEMPERATURES = (1.0, 10.0)


def label_of(batch: int, temperature: float, bias: str) -> str:
    """Returns the label of a row."""
    return f"batch {batch}, t = {temperature:g}, b = {bias}"


def rows():
    """Three biases and two temperatures at three batch sizes; each with the learning rate that suits it best."""

    def of(batch, temperature, bias, seed):
        value = small.prior(batch) if bias == "prior" else float(bias)
        start = {"init_temperature": temperature, "init_bias": value}
        return small.siglit(
            label_of(batch, temperature, bias),
            seed,
            batch=batch,
            examples=EXAMPLES,
            model=start,
            choose=[{"learning_rate": rate, **start} for rate in small.LEARNING_RATES],
        )

    return {
        label_of(*one): functools.partial(of, *one) for one in itertools.product(BATCHES, TEMPERATURES[::-1], BIASES)
    }


def findings(results: Results) -> Findings:
    """Accuracy by batch and start."""
    table = Table(
        f"Zero-shot accuracy (%) after {EXAMPLES:,} pairs. The prior of a batch is b = -log(batch - 1).",
        ("batch", "prior", *(f"t = {t:g}, b = {b}" for t in TEMPERATURES for b in BIASES)),
        [
            (
                f"{batch:,}",
                f"{small.prior(batch):.1f}",
                *(
                    results.text(label_of(batch, t, b), "final", "zero_shot", scale=100)
                    for t in TEMPERATURES
                    for b in BIASES
                ),
            )
            for batch in BATCHES
        ],
    )
    verdicts = [
        greater(
            f"Batch {batch:,}, t = 10: b at the prior is better than b = {other}",
            *(results.values(label_of(batch, 10.0, b), "final", "zero_shot") for b in ("prior", other)),
            rows=[label_of(batch, 10.0, b) for b in ("prior", other)],
            headline=batch == BATCHES[0] and other == "-10",
        )
        for batch in BATCHES
        for other in ("-10", "0")
    ]
    picture = Picture("starts", _CAPTION, functools.partial(_draw, results))
    return Findings([table], [picture], verdicts, (), _advice(verdicts[0]))


def _advice(verdict):
    return advise(
        verdict,
        seen="Start b at the prior of the batch, -log(batch - 1), when the batch is small.",
        not_seen="Start b at the paper's -10, also when the batch is small.",
        smaller="The paper's b = -10 is as good as the prior of the batch, also when the batch is small.",
    )


def _draw(results, path):
    panels = []
    for temperature in TEMPERATURES:
        lines = [
            final_line(
                results, f"b = {bias}", BATCHES, lambda b, t=temperature, bias=bias: label_of(b, t, bias), colour
            )
            for colour, bias in enumerate(BIASES)
        ]
        panels.append(Panel(f"t = {temperature:g}", "batch size", "zero-shot, %", lines, log_x=True, scale=100))
    draw(panels, path, columns=2)


_CAPTION = "Zero-shot accuracy over batch size by the starts of t and b (mean and standard error over seeds)."
STUDY = Study(
    name="starts",
    title="Starts of t and b by batch size",
    paper="Not in the paper, which tests one batch size (Table 4)",
    question=(
        "The paper starts every batch size at t = 10, b = -10, the prior of a batch of 22,000. Does a smaller batch "
        "want the bias of its own prior?"
    ),
    setup="SigLiT on stored embeddings, sigmoid loss, each start with the learning rate that suits it best.",
    rows=rows,
    findings=findings,
)

if __name__ == "__main__":
    sys.exit(main([STUDY], STUDY.name))
