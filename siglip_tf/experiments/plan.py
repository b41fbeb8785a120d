"""The plan that `--dry-run` prints: a run's size, length, settings, and memory, and the TPU compiler's report.

The model, its optimizer, and its schedule are built without allocating memory, so a laptop can plan a g/14 run.
`--tpu-report` compiles the step, which takes minutes. The report is cached (`siglip_tf.experiments.compiled`), so it
is shown at once the next time.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

import siglip_tf
from siglip_tf import tpu
from siglip_tf.experiments import compiled
from siglip_tf.experiments.build import build_model, build_optimizer, needs_data_size, parameter_count, total_steps
from siglip_tf.experiments.config import flat
from siglip_tf.tpu.topology import GIB

# Settings that change the compiled program.
_COMPILED_WITH = ("batch", "duration", "topology", "steps_per_execution")


def plan(command: str, c: ConfigDict, examples_per_epoch: int | None = None, compile_now: bool = False) -> str:
    """Returns the plan as lines of text.

    Args:
        command: the command line of this run, without the options of the plan.
        c: the settings.
        examples_per_epoch: the number of pairs in the data, if known.
        compile_now: whether to run the TPU compiler if its report is not cached.

    Raises:
        ValueError: if the settings do not give a valid model, optimizer, or schedule, or if the batch is not divisible
            by the number of chips.
    """
    if needs_data_size(c) and examples_per_epoch is None:
        raise ValueError(
            f"A duration of {c.duration!r} depends on the data. Name it by --data, or set duration=... steps."
        )
    topology = tpu.Topology(c.topology)
    if c.batch % topology.chips:
        raise ValueError(f"Expected a batch that the {topology.chips} chips of {topology.name} divide. Got {c.batch}.")
    steps = total_steps(c, examples_per_epoch)
    with tpu.weightless_scope(tpu.made_up_tpu_strategy(1)):
        model = build_model(c, steps)
    examples = steps * c.batch
    o, s = c.optimizer, model.optimizer.schedule
    rows = [
        ("command", command),
        ("model", _towers(model)),
        ("parameters", f"{parameter_count(model.weights):,}, {parameter_count(model.trainable_weights):,} trained"),
        ("input", _input(c, model)),
        ("batch", f"{c.batch:,} pairs per step, {c.batch // topology.chips:,} per chip on {topology.chips} chips"),
        ("duration", f"{steps:,} steps, {examples:,} examples ({c.duration})"),
        (
            "optimizer",
            f"{type(model.optimizer).__name__}, learning rate {o.learning_rate:g}, weight decay {o.weight_decay:g}, "
            f"beta_2 {o.beta_2:g}, clipped at {o.clip}",
        ),
        *[("group", f"{g.pattern}: {_group(g)}") for g in model.optimizer.groups],
        (
            "schedule",
            f"{c.schedule.name}, {s.warmup_steps:,} steps of warm-up, {s.cooldown_steps:,} of cooldown",
        ),
        ("memory a chip", _state_memory(model)),
        *_compiled_rows(command, c, topology, steps, compile_now),
    ]
    return "\n".join(f"{name:14} {text}" for name, text in rows)


def subject(c: ConfigDict) -> tpu.Subject:
    """Returns the subject of a TPU report for a recipe's settings. Call it inside the strategy's scope."""
    from siglip_tf.experiments.build import batch_spec

    steps = 1 if needs_data_size(c) else total_steps(c)
    model = siglip_tf.SigLIP(**c.model.to_dict(), seed=c.seed)
    model.compile(build_optimizer(c, steps))
    return tpu.Subject(model, batch_spec(model), None if needs_data_size(c) else float(steps * c.batch))


def _towers(model: siglip_tf.SigLIP) -> str:
    a = model.get_config()
    text = f"text {a['text']}" + (f" of depth {a['text_depth']}" if a["text_depth"] else "")
    parts = []
    if model.image is None:
        parts.append(f"stored image embeddings of {model.embed_dim}")
    else:
        parts.append(f"image {a['image']} ({parameter_count(model.image.weights):,})")
    parts.append(f"{text} ({parameter_count(model.text.weights):,})")
    if a["token_bottleneck"]:
        parts.append(f"token embeddings through {a['token_bottleneck']}")
    return ", ".join(parts)


def _input(c: ConfigDict, model: siglip_tf.SigLIP) -> str:
    height, width = model.image_size
    images = f"images {height} x {width}, " if model.image is not None else ""
    text = f"{images}{model.text_length} tokens of a vocabulary of {model.vocab_size:,}"
    return f"{text}; from {c.data or 'the data that --data will name'}"


def _group(group: siglip_tf.optimizers.ParameterGroup) -> str:
    if group.freeze:
        return "frozen, no gradient pass"
    return f"learning rate x {group.learning_rate_multiplier:g}, weight decay x {group.decay_multiplier:g}"


def _state_memory(model: siglip_tf.SigLIP) -> str:
    def gib(variables: Iterable[Any]) -> str:
        count = sum(parameter_count([v]) * (2 if v.dtype in ("bfloat16", "float16") else 4) for v in variables)
        return f"{count / GIB:.2f} GiB"

    weights, state = gib(model.weights), gib(model.optimizer.variables)
    return f"weights {weights}, optimizer {state}, gradients {gib(model.trainable_weights)}; activations come on top"


def _compiled_rows(
    command: str, c: ConfigDict, topology: tpu.Topology, steps: int, compile_now: bool
) -> list[tuple[str, str]]:
    path = _kept_report(c)
    if compile_now and not path.exists():
        print(f"Compiling for {topology.name}; minutes.", flush=True)
        compiled.keep(path, functools.partial(subject, c), topology, c.batch)
    if not path.exists():
        ask = f"{command} --dry-run --tpu-report"
        return [("TPU", f"memory and days on {topology.name}: not compiled yet; takes minutes: {ask}")]
    found = json.loads(path.read_text())
    used = f"{found['used_gib']:.2f} of {found['usable_gib']:.2f} GiB a chip on {topology.name}"
    if not found["fits"]:
        return [("TPU", f"does NOT fit: {used}; try --set model.remat=block or model.microbatch_size=512")]
    days = steps * found["seconds"] / 86_400
    speed = f"{found['seconds']:.2f} s a step, {found['images_per_second_per_chip']:,.0f} examples/s a chip"
    return [
        ("TPU", f"fits: {used}; {speed}, {days:.1f} days (by the compiler's schedule, {found['compiler']})"),
    ]


def _kept_report(c: ConfigDict) -> Path:
    values = {k: v for k, v in flat(c).items() if k in _COMPILED_WITH or k.startswith(("model.", "optimizer."))}
    return compiled.kept_report("plans", values)
