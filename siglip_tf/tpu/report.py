"""Compiles a recipe's training step for a TPU and reports its memory, its time, and what takes the time."""

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
    """The subject of a report: a Keras model that is compiled with its optimizer, and the batch that it trains on.

    Attributes:
        model: a model that was created and compiled under the current strategy.
        batch: specs of one example by key, such as {"text": TensorSpec((16,), int32), "image": ...}.
        examples: the number of examples of the whole run, or None if it is not known.
    """

    model: keras.Model
    batch: dict[str, tf.TensorSpec]
    examples: float | None = None


# A function that is called inside the strategy's scope with keyword overrides, and returns a subject.
Recipe = Callable[..., Subject]


@dataclasses.dataclass(frozen=True)
class Report:
    """The report of a training step on a slice.

    Attributes:
        topology: the slice.
        global_batch: number of examples per step.
        fits: whether the program fits into one chip's memory.
        used: the peak number of bytes on one chip. If it does not fit, this comes from the compiler's message.
        memory: bytes on one chip for "argument", "output", "alias", "temp", and "peak". None if it does not fit.
        cost: the cost of a step, or None if it does not fit.
        examples: number of examples of the whole run, or None.
        parameters: number of trainable parameters of the model.
        compiler: the versions of the compiler.
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
        """The number of bytes that are missing on one chip, or 0 if it fits."""
        return 0 if self.fits else max(self.used - self.topology.chip.usable, 0)

    @property
    def seconds(self) -> float | None:
        """The estimated time of a step in seconds. See `cost` for what it does not include."""
        return self.cost.seconds if self.cost else None

    @property
    def peak_share(self) -> float | None:
        """The fraction of the chip's peak floating-point rate. Only matmuls outside kernels count."""
        return self.cost.flops / self.seconds / self.topology.chip.flops if self.cost else None

    @property
    def images_per_second_per_chip(self) -> float | None:
        return self.global_batch / self.seconds / self.topology.chips if self.cost else None

    @property
    def days(self) -> float | None:
        """The estimated time of the whole run in days."""
        if not self.cost or self.examples is None:
            return None
        return self.examples / self.global_batch * self.seconds / 86_400

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as JSON values."""
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
    """Builds a recipe's model without memory under a simulated TPUStrategy, and traces its training step.

    Raises:
        ValueError: if the batch is not divisible by the number of replicas, or a TPU cannot run the step.
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
        topology: the slice. Every chip is a replica.
        global_batch: number of examples per step.
        progress: a function that is called with the elapsed seconds of the compiler.
        **overrides: overrides for the recipe.
    """
    program, subject = trace_recipe(recipe, topology.chips, global_batch, **overrides)
    compiled = compile_module(lower(program), topology, progress=progress)
    parameters = sum(int(tf.TensorShape(v.shape).num_elements()) for v in subject.model.trainable_variables)
    return summarise(compiled, global_batch, subject.examples, parameters)


def summarise(compiled: Compiled, global_batch: int, examples: float | None = None, parameters: int = 0) -> Report:
    """Returns a report for the compiler's result."""
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
    """Returns the bytes that a program needs, from the compiler's message that refuses it.

    The message contains the total ("Used 40.18G of 30.75G hbm"), or only the temporaries if they alone do not fit.

    Raises:
        ValueError: if the message contains no size.
    """
    found = next(filter(None, (re.search(pattern, message) for pattern in _REFUSALS)), None)
    if not found:
        raise ValueError(f"Expected a refusal that says how much memory is used. Received: {message[:500]}")
    return int(float(found[1]) * 1024 ** (" KMGT".index(found[2])))
