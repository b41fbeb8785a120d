"""Compiles this project's program for the paper's runs: `python -m tools.tpu_report --paper`.

Each row is compiled for the paper's chips and batch. It is printed with the paper's own figures and with its claims.
Rows that were compiled before come from a cache. Compiling all rows takes hours on two cores; `--only` selects some.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TextIO

import keras
import tensorflow as tf

from siglip_tf import tpu
from siglip_tf.experiments.recipe import Recipe
from siglip_tf.losses import sigmoid_loss_and_gradients
from siglip_tf.tpu.topology import GIB

from ..packages import recipe_module

SIGLIP, SIGLIT, UNLOCKED = (recipe_module(name).RECIPE for name in ("siglip", "siglit", "unlocked"))

FOUR = "v4:2x2x1"


@dataclasses.dataclass(frozen=True)
class Row:
    """One program: a recipe at the paper's settings.

    Attributes:
        name: a unique name.
        recipe: the recipe.
        setup: a setup of the recipe, which determines the slice, the batch, and the examples of the run.
        options: settings that replace those of the setup. See `Recipe.subject`.
        batch: a global batch that replaces the setup's.
        slice: a slice that replaces the setup's.
        paper: what the paper says about the run.
        claims: each claim with a function of the reports by row name, which returns whether it holds.
    """

    name: str
    recipe: Recipe
    setup: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    batch: int | None = None
    slice: str | None = None
    paper: str = ""
    claims: Sequence[tuple[str, Callable[[dict[str, tpu.Report]], bool]]] = ()

    @property
    def topology(self) -> str:
        return self.slice or self.recipe.settings(self.setup).topology

    @property
    def global_batch(self) -> int:
        return self.batch or self.recipe.settings(self.setup).batch


def subject(recipe: Recipe, setup: str, **options: Any) -> tpu.Subject:
    """Returns the subject of a setup without the scalars of the schedule and of the towers' norms.

    These scalars cost almost nothing. Without them, runs that differ only in length are the same program, which is
    compiled once. See `Recipe.subject`.
    """
    made = recipe.subject(setup, tower_norms=False, **options)
    made.model.optimizer.schedule = None
    return made


_FITS = "fits"


def _fits(name):
    return (_FITS, lambda r: r[name].fits)


def rows() -> list[Row]:
    """Returns all rows. A row comes before the rows that are compared with it."""
    return [
        Row(
            "B/16 4096",
            SIGLIP,
            "4k",
            paper="big_vision 2.26 s and 12.6 GiB by jax 0.10.2, libtpu 0.0.42.1",
            claims=[
                ("at most 1.5 s", lambda r: r["B/16 4096"].seconds <= 1.5),
                ("at most 1.1 s", lambda r: r["B/16 4096"].seconds <= 1.1),
                ("at most 12 GiB", lambda r: r["B/16 4096"].used <= 12 * GIB),
            ],
        ),
        Row(
            "B/16 8192",
            SIGLIP,
            "4k",
            batch=8192,
            paper="big_vision 4.54 s",
            claims=[("at most twice 4096", lambda r: r["B/16 8192"].seconds <= 2 * r["B/16 4096"].seconds)],
        ),
        Row(
            "B/16 32768, microbatches",
            SIGLIP,
            "4k",
            {"microbatch_size": 1024},
            batch=32_768,
            claims=[
                _fits("B/16 32768, microbatches"),
                (
                    "at most 1.4x the time per example of 4096",
                    lambda r: r["B/16 32768, microbatches"].seconds / 8 <= 1.4 * r["B/16 4096"].seconds,
                ),
            ],
        ),
        Row("B/16 8192 on v5e-16", SIGLIP, "4k", batch=8192, slice="v5e:4x4", claims=[_fits("B/16 8192 on v5e-16")]),
        Row("B/16 4096 on v6e-8", SIGLIP, "4k", slice="v6e:2x4", claims=[_fits("B/16 4096 on v6e-8")]),
        Row(
            "SigLiT B/8 + L*, 32k",
            SIGLIT,
            "b8",
            paper="Table 1 row 1: 4 chips, 1 day",
            claims=[_fits("SigLiT B/8 + L*, 32k")],
        ),
        Row(
            "SigLiT g/14 + L, 20k",
            SIGLIT,
            "g14",
            paper="Table 1 row 2: 4 chips, 2 days",
            claims=[_fits("SigLiT g/14 + L, 20k")],
        ),
        Row(
            "SigLiT B/8 + L*, one million",
            SIGLIT,
            "b8",
            {"microbatch_size": 8192, "examples": 18e9},
            batch=1_048_576,
            paper="section 4.1: one million, 18B examples",
            claims=[_fits("SigLiT B/8 + L*, one million")],
        ),
        Row(
            "SigLIP B/16 unlocked, 16k on 16 chips",
            UNLOCKED,
            "no_decay",
            paper="Table 1 row 3: 16 chips, 3 days",
            claims=[_fits("SigLIP B/16 unlocked, 16k on 16 chips")],
        ),
        Row(
            "SigLIP B/16, 32k on 32 chips",
            SIGLIP,
            "32k",
            paper="Table 1 rows 4 and 5: 32 chips, 2 and 5 days",
            claims=[_fits("SigLIP B/16, 32k on 32 chips")],
        ),
    ]


def run_paper(only: str | None, out: TextIO, progress: Callable[[str], Callable[[float], None]]) -> int:
    """Compiles and prints the rows whose name contains `only`. Returns 1 if a claim fails, else 0."""
    failed = 0
    out.write(
        f"Compiled by {tpu.compiler_version()}; traced by TensorFlow {tf.__version__}, Keras {keras.__version__}\n"
    )
    reports: dict[str, tpu.Report] = {}
    chosen = [row for row in rows() if not only or only in row.name]
    for row in chosen:
        reports[row.name] = _report(row, progress)
        out.write(_shown(row, reports[row.name]))
        for claim, holds in row.claims:
            try:
                held = holds(reports)
            except (KeyError, TypeError):  # the other row is not selected, or does not fit
                out.write(f"    not compared: {claim}\n")
                continue
            failed += not held
            out.write(f"    {'holds' if held else 'FAILS'}: {claim}\n")
        out.flush()
    if not only or only in "largest batch":
        failed += _largest(out, progress)
    if not only or only in "loss alone":
        failed += _loss_alone(out, progress)
    return 1 if failed else 0


def _report(row, progress):
    show = progress(f"compiling {row.name} for {row.topology}")
    program = functools.partial(subject, row.recipe, row.setup)
    return tpu.report(program, tpu.Topology(row.topology), row.global_batch, show, **row.options)


def _shown(row, report):
    head = f"{row.name}: global batch {row.global_batch} on {report.topology.chips} chips ({row.topology})\n"
    if not report.fits:
        return f"{head}    does not fit by {report.short_by / GIB:.2f} GiB; paper: {row.paper or '-'}\n"
    days = "" if report.days is None else f", {report.days:.2f} days"
    return (
        f"{head}    {report.seconds:.3f} s a step, {report.used / GIB:.2f} GiB peak, "
        f"{report.images_per_second_per_chip:.0f} examples/s/chip, {report.peak_share:.0%} of peak{days}; "
        f"paper: {row.paper or '-'}\n"
    )


def _largest(out, progress):
    """Prints the largest batch on four chips for both losses, without microbatches, with the paper's largest batch."""
    out.write('Largest batch on four v4 chips, no microbatches, remat "block"\n')
    start = 4096
    for loss, paper in (("sigmoid", 4096), ("softmax", 2048)):

        def compile_at(batch, loss=loss):
            show = progress(f"compiling {loss} at {batch}")
            program = functools.partial(subject, SIGLIP, "4k")
            return tpu.report(program, tpu.Topology(FOUR), batch, show, loss=loss)

        reports = tpu.largest_batch(compile_at, 4, start, 128)
        start = max(r.global_batch for r in reports if r.fits)
        out.write(f"    {loss}: {start}; paper: {paper}\n")
        out.flush()
    return 0


def loss_program(replicas: int, b: int, d: int = 768) -> str:
    """Returns the StableHLO of the loss and its gradients, without towers, for b pairs per chip."""

    def step(batch):
        from siglip_tf.distribution import current_ring

        log_temperature, bias = tf.constant(2.3), tf.constant(-10.0)
        result = sigmoid_loss_and_gradients(current_ring(), batch["x"], batch["y"], log_temperature, bias)
        return [result.loss, *result.gradients()]

    spec = tf.TensorSpec((b, d))
    return tpu.lower(tpu.trace_step(step, {"x": spec, "y": spec}, tpu.made_up_tpu_strategy(replicas), []))


def _loss_alone(out, progress, b=1024):
    """Checks that temporaries do not grow with the number of chips, and prints whether hops overlap matmuls."""
    out.write(f"The loss and its gradients alone, {b} pairs per chip, d = 768\n")
    temporaries, peaks = [], []
    for name, chips in ((FOUR, 2), (FOUR, 4), ("v4:2x2x2", 8), ("v4:2x2x4", 16), ("v4:2x4x4", 32)):
        show = progress(f"compiling the loss for {chips} chips of {name}")
        compiled = tpu.compile_module(loss_program(chips, b), tpu.Topology(name), chips, progress=show)
        cost = tpu.analyse(compiled)
        temporaries.append(compiled.memory["temp"])
        peaks.append(compiled.memory["peak"])
        looped = [hop for hop in cost.hops if hop.count == max(h.count for h in cost.hops)]
        under = "; ".join(
            f"{hop.shape} {'asynchronous' if hop.asynchronous else 'WAITS'} under {hop.matmuls_under} matmuls"
            for hop in looped
        )
        memory = f"{temporaries[-1] >> 10} KiB of temporaries, {peaks[-1] >> 10} KiB peak"
        out.write(f"    {chips:3d} chips: {memory}; hops {under}\n")
        out.flush()
    flat = all(max(sizes) <= 1.05 * min(sizes) for sizes in (temporaries, peaks))
    out.write(f"    {'holds' if flat else 'FAILS'}: temporaries and peak flat (5 %) in the number of chips\n")
    return 0 if flat else 1
