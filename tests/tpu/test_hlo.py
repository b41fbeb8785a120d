"""Reading optimised HLO: loops, trip counts, what runs under a hop."""

import pytest

from siglip_tf.tpu import hlo

TEXT = """HloModule step, is_scheduled=true

%condition (p.1: (s32[], f32[8,4], s32[])) -> pred[] {
  %p.1 = (s32[], f32[8,4]{1,0:T(8,128)}, s32[]) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%p.1), index=0
  %limit = s32[]{:T(128)} get-tuple-element(%p.1), index=2
  %one.1 = s32[] constant(1)
  %next = s32[] add(%i.1, %one.1)
  %below = pred[] compare(%i.1, %limit), direction=LT
  %most = s32[] constant(100)
  %also = pred[] compare(%next, %most), direction=LT
  ROOT %both = pred[] and(%below, %also)
}

%inside (q.1: f32[8,4]) -> f32[8,4] {
  %q.1 = f32[8,4]{1,0} parameter(0)
  ROOT %conv = f32[8,4]{1,0} convolution(%q.1, %q.1), dim_labels=bf_io->bf
}

%body (p.2: (s32[], f32[8,4], s32[])) -> (s32[], f32[8,4], s32[]) {
  %p.2 = (s32[], f32[8,4]{1,0:T(8,128)}, s32[]) parameter(0)
  %i.2 = s32[]{:T(128)} get-tuple-element(%p.2), index=0
  %x = f32[8,4]{1,0:T(8,128)} get-tuple-element(%p.2), index=1
  %n = s32[]{:T(128)} get-tuple-element(%p.2), index=2
  %two = s32[] constant(2)
  %i.3 = s32[] add(%i.2, %two)
  %fusion.7 = f32[8,4]{1,0} fusion(%x), kind=kOutput, calls=%inside, backend_config={"estimated_cycles":"500"}
  ROOT %t.2 = (s32[], f32[8,4]{1,0}, s32[]) tuple(%i.3, %fusion.7, %n)
}

ENTRY %main (a: f32[8,4]) -> f32[8,4] {
  %a = f32[8,4]{1,0:T(8,128)} parameter(0)
  %zero = s32[] constant(0)
  %start = s32[] copy(%zero)
  %seven = s32[] constant(7)
  %t.1 = (s32[], f32[8,4]{1,0}, /*index=2*/s32[]) tuple(%start, %a, /*index=2*/%seven)
  %while.1 = (s32[], f32[8,4]{1,0}, s32[]) while(%t.1), condition=%condition, body=%body, metadata={op_name="while"}
  ROOT %out = f32[8,4]{1,0} get-tuple-element(%while.1), index=1
}
"""


def test_a_loop_is_counted_by_its_own_arithmetic():
    module = hlo.parse(TEXT)
    assert module.entry == "main" and set(module.computations) == {"condition", "inside", "body", "main"}
    (loop,) = [i for i in module.computations["main"] if i.opcode == "while"]
    assert module.trips(loop, "main") == 4  # 0, 2, 4, 6
    cycles = {i.name: (i.cycles, times) for i, _, times in module.executed() if i.cycles}
    assert cycles == {"fusion.7": (500, 4)}


def test_a_loop_whose_limit_is_data_is_unknown():
    module = hlo.parse(TEXT.replace("%seven = s32[] constant(7)", "%seven = s32[] parameter(1)"))
    (loop,) = [i for i in module.computations["main"] if i.opcode == "while"]
    assert module.trips(loop, "main") is None


def test_shapes_and_sizes():
    assert hlo.shapes("(bf16[4,16]{1,0:T(4,128)(2,1)S(3)}, pred[], s64[3])") == [
        ("bf16", (4, 16), 128),
        ("pred", (), 1),
        ("s64", (3,), 24),
    ]
    with pytest.raises(ValueError, match="text of an HLO module"):
        hlo.parse("nothing")
