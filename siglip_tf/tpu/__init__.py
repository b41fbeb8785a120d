"""Traces a training step under the real TPUStrategy without a TPU, lowers and compiles it for a slice, and reports it.

A step can also run on CPU replicas. Example:

from siglip_tf import tpu

def recipe(**overrides):  # called inside the strategy's scope
    model = siglip_tf.SigLIP(remat="block", attention="fused", scan_layers=True, **overrides)
    model.compile(siglip_tf.optimizers.ScalingViTAdafactor(1e-3))
    image, text = tf.TensorSpec((224, 224, 3)), tf.TensorSpec((64,), tf.int32)
    return tpu.Subject(model, {"image": image, "text": text}, examples=9e9)

report = tpu.report(recipe, tpu.Topology("v4:2x2x1"), global_batch=4096)
report.fits, report.seconds, report.days
"""

from siglip_tf.tpu.checks import check_program
from siglip_tf.tpu.compiler import Compiled, compile_module, compiler_version
from siglip_tf.tpu.cost import Cost, Hop, Op, analyse
from siglip_tf.tpu.cpu_replicas import CPUReplicas
from siglip_tf.tpu.fit import trace_fit
from siglip_tf.tpu.lowering import lower
from siglip_tf.tpu.replica_program import Argument, ReplicaProgram, count_ops, program_of_graph, trace_step
from siglip_tf.tpu.report import Recipe, Report, Subject, report, summarise, trace_recipe
from siglip_tf.tpu.search import largest_batch
from siglip_tf.tpu.strategy import made_up_tpu_strategy, weightless_scope
from siglip_tf.tpu.topology import CHIPS, Chip, Topology

__all__ = [
    "CHIPS",
    "Argument",
    "CPUReplicas",
    "Chip",
    "Compiled",
    "Cost",
    "Hop",
    "Op",
    "Recipe",
    "ReplicaProgram",
    "Report",
    "Subject",
    "Topology",
    "analyse",
    "check_program",
    "compile_module",
    "compiler_version",
    "count_ops",
    "largest_batch",
    "lower",
    "made_up_tpu_strategy",
    "program_of_graph",
    "report",
    "summarise",
    "trace_fit",
    "trace_recipe",
    "trace_step",
    "weightless_scope",
]
