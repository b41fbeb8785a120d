"""From a recipe to what the TPU compiler says of its training step: does it fit, how long is it, where does time go."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from siglip_tf.tpu.compiler import Compiled, Progress, compile_module, compiler_version
from siglip_tf.tpu.cost import Cost, analyse
from siglip_tf.tpu.lowering import lower
from siglip_tf.tpu.replica_program import ReplicaProgram, trace_step
from siglip_tf.tpu.strategy import made_up_tpu_strategy, weightless_scope
from siglip_tf.tpu.topology import GIB, Topology

LEFT_OUT = (
    "waiting for collectives and prefetches, launching a step, feeding the input; kernels by their static schedule"
)


@dataclasses.dataclass(frozen=True)
class Subject:
    """What a recipe gives to be compiled: a compiled model and the batch that it trains on.

    Attributes:
        model: made and compiled (with its optimizer) under the current strategy.
        batch: key -> spec of one example, such as {"text": TensorSpec((16,), int32), "image": ...}.
        examples: examples seen in the whole run, or None where the recipe does not say.
    """

    model: keras.Model
    batch: dict[str, tf.TensorSpec]
    examples: float | None = None


# A recipe's function: called inside the strategy's scope with keyword overrides, returns its subject.
Recipe = Callable[..., Subject]


@dataclasses.dataclass(frozen=True)
class Report:
    """What is known of a training step on a slice.

    Attributes:
        topology: the slice.
        global_batch: examples of a step.
        fits: whether one chip's memory holds the program.
        used: bytes that it needs at its peak on one chip; from the refusal where it does not fit.
        memory: "argument", "output", "alias", "temp", "peak" -> bytes on one chip; None where it does not fit.
        cost: of a step; None where it does not fit.
        examples: of the whole run, or None.
        parameters: trainable weights of the model.
        compiler: versions.
    """

    topology: Topology
    global_batch: int
    fits: bool
    used: int
    memory: dict[str, int] | None
    cost: Cost | None
    examples: float | None
    parameters: int
    compiler: str

    @property
    def short_by(self) -> int:
        """Bytes that are missing on one chip; 0 where it fits."""
        return 0 if self.fits else max(self.used - self.topology.chip.usable, 0)

    @property
    def seconds(self) -> float | None:
        """Estimated time of a step; see `cost` for what it leaves out."""
        return self.cost.seconds if self.cost else None

    @property
    def peak_share(self) -> float | None:
        """Of the chip's peak floating point rate; matmuls outside kernels alone."""
        return self.cost.flops / self.seconds / self.topology.chip.flops if self.cost else None

    @property
    def images_per_second_per_chip(self) -> float | None:
        return self.global_batch / self.seconds / self.topology.chips if self.cost else None

    @property
    def days(self) -> float | None:
        """For the whole run."""
        if not self.cost or self.examples is None:
            return None
        return self.examples / self.global_batch * self.seconds / 86_400

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {
            "topology": self.topology.name,
            "chips": self.topology.chips,
            "global_batch": self.global_batch,
            "fits": self.fits,
            "used_gib": self.used / GIB,
            "usable_gib": self.topology.chip.usable / GIB,
            "short_by_gib": self.short_by / GIB,
            "memory_gib": {k: v / GIB for k, v in self.memory.items()} if self.memory else None,
            "seconds": self.seconds,
            "collective_seconds_at_least": self.cost.collective_seconds if self.cost else None,
            "left_out": LEFT_OUT,
            "flops_per_chip": self.cost.flops if self.cost else None,
            "share_of_peak": self.peak_share,
            "images_per_second_per_chip": self.images_per_second_per_chip,
            "days": self.days,
            "parameters": self.parameters,
            "seconds_by_kind": self.cost.by_kind if self.cost else None,
            "ops": [dataclasses.asdict(op) for op in self.cost.ops[:40]] if self.cost else None,
            "hops": [dataclasses.asdict(hop) for hop in self.cost.hops] if self.cost else None,
            "compiler": self.compiler,
        }


def trace_recipe(recipe: Recipe, replicas: int, global_batch: int, **overrides: Any) -> tuple[ReplicaProgram, Subject]:
    """Builds a recipe's model without memory under a made-up TPUStrategy and traces its training step.

    Raises:
        ValueError: the batch does not divide by the replicas, or the step is none that a TPU runs.
    """
    if global_batch % replicas:
        raise ValueError(f"Expected a global batch that {replicas} chips divide. Received: {global_batch}.")
    strategy = made_up_tpu_strategy(replicas)
    with weightless_scope(strategy):
        subject = recipe(**overrides)
    b = global_batch // replicas
    batch = {key: tf.TensorSpec((b, *spec.shape), spec.dtype) for key, spec in subject.batch.items()}
    variables = [*subject.model.variables, *subject.model.optimizer.variables]
    return trace_step(subject.model.train_step, batch, strategy, variables), subject


def report(
    recipe: Recipe, topology: Topology, global_batch: int, progress: Progress | None = None, **overrides: Any
) -> Report:
    """Compiles a recipe's training step for a slice.

    Args:
        recipe: see `Recipe`.
        topology: the slice; every chip is a replica.
        global_batch: examples of a step.
        progress: called with the seconds that the compiler has run.
        **overrides: for the recipe.
    """
    program, subject = trace_recipe(recipe, topology.chips, global_batch, **overrides)
    compiled = compile_module(lower(program), topology, progress=progress)
    parameters = sum(int(tf.TensorShape(v.shape).num_elements()) for v in subject.model.trainable_variables)
    return summarise(compiled, global_batch, subject.examples, parameters)


def summarise(compiled: Compiled, global_batch: int, examples: float | None = None, parameters: int = 0) -> Report:
    """A report of what the compiler returned."""
    return Report(
        topology=compiled.topology,
        global_batch=global_batch,
        fits=compiled.fits,
        used=compiled.memory["peak"] if compiled.fits else refused_bytes(compiled.refusal),
        memory=compiled.memory,
        cost=analyse(compiled) if compiled.fits else None,
        examples=examples,
        parameters=parameters,
        compiler=compiler_version(),
    )


_REFUSALS = (
    r"[Uu]sed ([\d.]+)([KMGT]) of [\d.]+[KMGT] hbm",
    r"required for HLO temporaries \(([\d.]+)([KMGT])\)",
)


def refused_bytes(message: str) -> int:
    """Bytes that a program needs, from the compiler's refusal: all of them ("Used 40.18G of 30.75G hbm"), or the
    temporaries alone where those are too many by themselves.

    Raises:
        ValueError: the message names no size.
    """
    found = next(filter(None, (re.search(pattern, message) for pattern in _REFUSALS)), None)
    if not found:
        raise ValueError(f"Expected a refusal that says how much memory is used. Received: {message[:500]}")
    return int(float(found[1]) * 1024 ** (" KMGT".index(found[2])))
