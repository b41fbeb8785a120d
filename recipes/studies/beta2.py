"""Figure 5: the second moment's decay and the spikes of a large learning rate.

python -m recipes.studies.beta2
"""

from __future__ import annotations

import functools
import statistics
import sys

from . import small
from .command import main
from .plots import Line, Panel, draw
from .study import Findings, PaperRow, Picture, Results, Study, Table
from .verdict import advise, greater

BATCH, EXAMPLES = 64, 131_072  # 2,048 steps: 0.999 remembers a thousand
LEARNING_RATE = 5e-2  # several times what the batch size study chooses
BETAS = (0.999, 0.95)
_MEDIAN_OVER = 9  # points of a curve, to tell a spike from the trend


def label_of(beta: float) -> str:
    """Returns the label of a row."""
    return f"beta2 = {beta:g}"


def rows():
    """Returns the runs of both decays, without clipping, so that a spike reaches the optimizer in full."""

    def of(beta, seed):
        return small.siglit(
            label_of(beta),
            seed,
            batch=BATCH,
            examples=EXAMPLES,
            optimizer={"learning_rate": LEARNING_RATE, "beta_2": beta, "global_clipnorm": None, "warmup": 0.05},
            points=1_024,
        )

    return {label_of(beta): functools.partial(of, beta) for beta in BETAS}


def findings(results: Results) -> Findings:
    """Curves of loss, gradient norm and update norm; how far the loss jumps over its trend."""
    spikes = {
        beta: {
            name: {seed: measure(run["curves"][name]) for seed, run in results.of(label_of(beta)).items()}
            for name, measure in _MEASURES.items()
        }
        for beta in BETAS
    }
    final = {beta: results.values(label_of(beta), "final", "zero_shot") for beta in BETAS}
    loss = {beta: results.values(label_of(beta), "final", "loss") for beta in BETAS}
    high, low = BETAS
    table = Table(
        f"AdamW at a learning rate of {LEARNING_RATE:g} without clipping, batch {BATCH}, {EXAMPLES:,} pairs. A spike "
        "is a step's value over the median of its neighborhood, a rise the trend over the lowest that it had reached; "
        "one figure a seed.",
        ("", "final loss", "zero-shot, %", "largest rise of loss", "spike of gradient norm", "of update norm"),
        [
            (
                label_of(beta),
                results.text(label_of(beta), "final", "loss", digits=2),
                results.text(label_of(beta), "final", "zero_shot", scale=100),
                *(_range(spikes[beta][name]) for name in _MEASURES),
            )
            for beta in BETAS
        ],
    )
    verdicts = [
        *(
            greater(
                f"{claim} with beta2 = {high:g} than with {low:g}",
                spikes[high][name],
                spikes[low][name],
                rows=[label_of(beta) for beta in BETAS],
                matters=0.5,
                scale=1,
                **shown,
            )
            for name, claim, shown in (
                ("loss", "The loss jumps further over what it had reached", {"unit": "times the lowest", "digits": 2}),
                ("gradient_norm", "Gradients spike more", {"unit": "times the median"}),
                ("update_norm", "Updates spike more", {"unit": "times the median", "digits": 2}),
            )
        ),
        greater(
            f"The final loss is lower with beta2 = {low:g}",
            loss[high],
            loss[low],
            rows=[label_of(beta) for beta in BETAS],
            matters=0.2,
            unit="nats a pair",
            scale=1,
            digits=2,
        ),
        greater(
            f"The final accuracy is better with beta2 = {low:g}",
            final[low],
            final[high],
            rows=[label_of(beta) for beta in BETAS],
            headline=True,
        ),
    ]
    picture = Picture("beta2", _CAPTION, functools.partial(_draw, results))
    return Findings([table], [picture], verdicts, _NOTES, _advice(verdicts[-1]))


def _largest_spike(curve):
    """The largest ratio of a point to the median of the points round it, the first tenth left out."""
    values = [value for value in curve if value is not None]
    start = len(values) // 10
    ratios = [value / trend for value, trend in zip(values[start:], _medians(values)[start:], strict=True)]
    return max(ratios, default=1.0)


def _largest_rise(curve):
    """The largest ratio of the curve's trend to the lowest that it had reached before."""
    lowest, rise = float("inf"), 1.0
    for value in _medians([value for value in curve if value is not None]):
        lowest = min(lowest, value)
        rise = max(rise, value / lowest)
    return rise


def _medians(values):
    half = _MEDIAN_OVER // 2
    return [statistics.median(values[max(0, i - half) : i + half + 1]) for i in range(len(values))]


# A loss that has jumped stays up for a while; a norm is back at once.
_MEASURES = {"loss": _largest_rise, "gradient_norm": _largest_spike, "update_norm": _largest_spike}


def _range(by_seed):
    return "-" if not by_seed else ", ".join(f"{value:.2f}" for _, value in sorted(by_seed.items())) + " times"


def _advice(verdict):
    return advise(
        verdict,
        seen="Keep beta2 = 0.95, the default of the optimizers here.",
        not_seen="beta2 = 0.999 is better in a stable run; 0.95 is the default since it follows a spike.",
        smaller="Keep beta2 = 0.95, the default of the optimizers here: it costs nothing.",
    )


def _draw(results, path):
    panels = []
    titles = {"loss": "Loss", "gradient_norm": "Gradient norm", "update_norm": "Update norm"}
    for name, title in titles.items():
        lines = []
        for colour, beta in enumerate(BETAS):
            for number, run in enumerate(results.of(label_of(beta)).values()):
                x = [step * BATCH for step in run["curves"]["step"]]
                shown = label_of(beta) if number == 0 else f"_{beta}{number}"
                lines.append(Line(shown, x, run["curves"][name], 1 - colour, marks=False))
        panels.append(Panel(title, "pairs seen", "", lines, log_y=True))
    draw(panels, path)


def paper_rows():
    """The paper names no size for Figure 5; its text speaks of Base models and growing batches."""
    return [
        PaperRow(f"beta2 = {beta:g}", "siglip", "v4:2x4x4", 32_768, 3e9, {"optimizer.beta_2": beta}) for beta in BETAS
    ]


_CAPTION = "Loss, gradient norm and update norm over training, every seed a line."
_NOTES = (
    "The figure's batch size and length are not given in the paper; the rows of the paper's scale take 32k and 3B "
    "examples, about where its curves end.",
)

STUDY = Study(
    name="beta2",
    title="Stability and beta2",
    paper="Section 4.7, Figure 5",
    question=(
        "Large batches become unstable: spikes of the gradient norm make large updates and the loss jumps. The paper "
        "lowers beta2 from 0.999 to 0.95, which lets the second moment follow a spike."
    ),
    setup=(
        f"SigLiT on stored embeddings at a learning rate of {LEARNING_RATE:g}, no clipping, "
        "twice as many steps as 0.999 remembers."
    ),
    rows=rows,
    findings=findings,
    paper_rows=paper_rows,
)

if __name__ == "__main__":
    sys.exit(main([STUDY], STUDY.name))
