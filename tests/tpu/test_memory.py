"""The promise of section 3.3, gradients counted: at b pairs a chip the loss needs the same memory on any D chips."""

import pytest
import tensorflow as tf

from siglip_tf import tpu
from siglip_tf.losses import sigmoid_loss, softmax_loss
from tests.tpu import programs

PAIRS, WIDTH = 64, 32


@pytest.mark.parametrize("loss", ["sigmoid", pytest.param("softmax", marks=pytest.mark.slow)])
def test_what_is_kept_for_the_backward_pass_is_flat_in_the_number_of_chips(loss):
    found = [kept_bytes(replicas, loss) for replicas in (2, 8, 32)]
    gradients = 2 * PAIRS * WIDTH * 4 + 2 * 4  # of images, texts, log temperature and bias: all that there is to keep
    assert max(found) == min(found) <= 1.05 * gradients


def kept_bytes(replicas, loss):
    """Bytes of the tensors of the forward pass that the backward pass reads, from the traced graph."""
    found = []

    def step(batch):
        inputs = [batch["x"], batch["y"], tf.constant(programs.T), tf.constant(programs.B)]
        inputs = inputs if loss == "sigmoid" else inputs[:3]
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            value = sigmoid_loss(*inputs) if loss == "sigmoid" else softmax_loss(*inputs)
        graph = value.graph
        forward = {op.name for op in graph.get_operations()}
        gradients = tape.gradient(value, inputs)
        backward = [op for op in graph.get_operations() if op.name not in forward]
        kept = {t.name: t for op in backward for t in op.inputs if t.op.name in forward and t.op.type != "Const"}
        found.append(sum(t.shape.num_elements() * t.dtype.size for t in kept.values()))
        return [value, *gradients]

    spec = tf.TensorSpec((PAIRS, WIDTH))
    tpu.trace_step(step, {"x": spec, "y": spec}, tpu.made_up_tpu_strategy(replicas), [])
    return found[-1]


@programs.needs_compiler
@pytest.mark.parametrize("loss", ["sigmoid", pytest.param("softmax", marks=pytest.mark.slow)])
def test_memory_on_cpu_replicas_is_flat(loss):
    peaks = []
    for replicas in (2, 8):
        program = programs.loss_program(replicas, PAIRS, WIDTH, loss, tile_size=16)
        peaks.append(tpu.CPUReplicas(program, tpu.lower(program)).temporary_bytes)
    assert max(peaks) <= 1.05 * min(peaks)


@pytest.mark.slow
@programs.needs_compiler
def test_memory_on_chips_is_flat_and_hops_run_under_matmuls(compile_cache):
    temporaries, peaks = [], []
    for name, chips in (("v4:2x2x1", 2), ("v4:2x4x4", 32)):
        program = programs.loss_program(chips, 256, 128, tile_size=None)
        compiled = tpu.compile_module(tpu.lower(program), tpu.Topology(name), chips)
        temporaries.append(compiled.memory["temp"])
        peaks.append(compiled.memory["peak"])
        hops = tpu.analyse(compiled).hops
        assert all(hop.asynchronous for hop in hops)
        assert any(hop.matmuls_under for hop in hops)
    assert max(temporaries) <= 1.05 * min(temporaries) and max(peaks) <= 1.05 * min(peaks)
