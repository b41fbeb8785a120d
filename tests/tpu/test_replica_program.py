"""The step that TPUStrategy traced, taken out of its graph: what it holds, what is refused, and that it compiles."""

import functools
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from siglip_tf import tpu
from siglip_tf.tpu import compiler
from siglip_tf.tpu.topology import GIB
from tests.models import small
from tests.tpu import programs

ADAMW = functools.partial(keras.optimizers.AdamW, 1e-3)


@pytest.fixture(scope="module")
def four():
    return programs.traced(4, 32, ADAMW)


def test_a_step_hops_and_sums_and_nothing_else(four):
    tpu.check_program(four)
    assert four.replicas == 4
    assert four.traced_ops["CollectivePermute"] == four.ops()["CollectivePermute"] > 0
    assert four.traced_ops["CrossReplicaSum"] == four.ops()["CrossReplicaSum"] > 0
    stateful = ("ReadVariableOp", "AssignVariableOp", "AssignAddVariableOp", "AssignSubVariableOp")
    assert all(four.traced_ops[name] > 0 for name in stateful[:3]) and not any(four.ops()[name] for name in stateful)


@programs.needs_compiler
def test_a_step_compiles_for_four_v4_chips(four, compile_cache, monkeypatch):
    seen, chips = [], tpu.Topology("v4:2x2x1")
    module = tpu.lower(four)
    compiled = tpu.compile_module(module, chips, progress=seen.append)
    assert compiled.fits and seen
    report = tpu.summarise(compiled, 32, examples=3.2e6)
    arguments = sum(a.bytes for a in four.arguments)
    assert arguments <= report.memory["argument"] < 100 * arguments  # tiles pad small arrays
    assert report.memory["alias"] > 0.5 * report.memory["output"]  # variables are updated in place
    assert report.used < GIB / 8
    cost = report.cost
    assert cost.unknown_loops == 0 and cost.flops > 0 and cost.by_kind["matmul"] > 0
    assert 1e-6 < report.seconds < 1e-2
    assert report.days == pytest.approx(1e5 * report.seconds / 86_400)
    # Texts and their gradients go round: what the loop sends starts before and ends behind the tile's matmuls.
    assert {hop.count for hop in cost.hops} == {1, 3}  # three to see all texts, one more for gradients to be home
    assert all(hop.asynchronous for hop in cost.hops)
    assert any(hop.count > 1 and hop.matmuls_under for hop in cost.hops)
    json.dumps(report.to_dict())

    monkeypatch.setattr(compiler, "_run", None)  # the second time nothing is compiled
    assert tpu.compile_module(module, chips) == compiled


def test_the_pure_program_computes_what_was_traced(four):
    """Everything but reads, writes and bookkeeping is there as often as TPUStrategy traced it; writes are additions."""
    left_out = {
        "ReadVariableOp",
        "Identity",
        "Placeholder",
        "NoOp",
        "Const",
        "While",
        "StatelessWhile",
        "VariableShape",
    }
    left_out |= {"AssignVariableOp", "AssignAddVariableOp", "AssignSubVariableOp"}
    traced, pure = dict(four.traced_ops), dict(four.ops())
    traced["AddV2"] += traced.get("AssignAddVariableOp", 0)
    traced["Sub"] += traced.get("AssignSubVariableOp", 0)
    names = (set(traced) | set(pure)) - left_out
    assert {n: traced.get(n, 0) for n in names} == {n: pure.get(n, 0) for n in names}


def test_arguments_are_the_variables_the_batch_and_the_replica(four):
    model = programs.compiled(ADAMW)
    means = [v for v in model.variables if "step_means" in v.path]  # of an epoch, for `History`
    expected = {v.path: tuple(v.shape) for v in [*model.trainable_variables, *model.optimizer.variables, *means]}
    found = {a.name: a.shape for a in four.arguments if a.kind == "variable"}
    assert {name: shape for name, shape in expected.items() if name in found} == found
    assert set(expected) - set(found) <= {"optimizer/learning_rate"}
    assert {a.name: a.shape for a in four.arguments if a.kind == "data"} == {"image": (8, 16, 16, 3), "text": (8, 5)}
    written = [a for a in four.arguments if a.result is not None]
    assert [four.results[a.result].name for a in written] == [a.name for a in written]
    assert {r.name for r in four.results if r.kind == "log"} >= {"loss", "temperature", "gradient_norm"}


def test_the_ring_is_a_loop_whose_graph_does_not_grow():
    two, eight = (programs.loss_program(replicas, 4, 8) for replicas in (2, 8))
    assert eight.ops()["CollectivePermute"] == two.ops()["CollectivePermute"] > 0
    assert eight.ops() == two.ops()


@pytest.mark.slow
def test_the_body_that_fit_traces_is_the_same(four):
    strategy = tpu.made_up_tpu_strategy(4)
    with tpu.weightless_scope(strategy):
        model = programs.compiled(ADAMW)
    program = tpu.trace_fit(model, small.dataset(global_batch=32, steps=2))
    same = {k: n for k, n in four.traced_ops.items() if k != "Identity"}
    assert {k: n for k, n in program.traced_ops.items() if k != "Identity"} == same
    assert not set(program.outside_ops) & {"MatMul", "Conv2D", "AddV2", "Mul"}


def test_variables_take_no_memory_and_their_value_is_empty():
    strategy = tpu.made_up_tpu_strategy(64)
    with tpu.weightless_scope(strategy):
        layer = keras.layers.Dense(1 << 20)
        layer.build((None, 1 << 15))  # 128 GiB of float32 on each of 64 replicas
    assert layer.kernel.shape == (1 << 15, 1 << 20)
    assert layer.kernel.value.values[0].read_value().shape == (0,)


@pytest.mark.parametrize("replicas", [0, -1, 2.0])
def test_a_wrong_number_of_replicas(replicas):
    with pytest.raises(ValueError, match="positive whole number"):
        tpu.made_up_tpu_strategy(replicas)


def test_an_uneven_batch_and_a_dynamic_one():
    with pytest.raises(ValueError, match="divide.*33"):
        programs.traced(4, 33, functools.partial(keras.optimizers.SGD, 0.1))
    strategy = tpu.made_up_tpu_strategy(2)
    with pytest.raises(ValueError, match="static shapes"):
        tpu.trace_step(lambda x: x, tf.TensorSpec((None, 3)), strategy, [])


def test_what_a_tpu_leaves_to_its_host_is_named():
    strategy = tpu.made_up_tpu_strategy(1)

    def step(x):
        tf.print("loss")
        return tf.ensure_shape(tf.numpy_function(np.sum, [x], tf.float32), ())

    program = tpu.trace_step(step, tf.TensorSpec((3,)), strategy, [])
    with pytest.raises(ValueError, match="PyFunc, which a TPU leaves to its host"):
        tpu.check_program(program)


def test_an_unknown_variable_is_refused():
    strategy = tpu.made_up_tpu_strategy(2)
    with strategy.scope():
        variable = keras.Variable(np.ones(3, np.float32))
    with pytest.raises(ValueError, match="not among `variables`"):
        tpu.trace_step(lambda x: x * variable.value, tf.TensorSpec((3,)), strategy, [])
