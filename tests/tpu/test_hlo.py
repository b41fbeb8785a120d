"""Reading optimised HLO: loops, trip counts, what runs under a hop."""

import pytest

from siglip_tf.tpu import hlo
from siglip_tf.tpu.flops import matmul_flops

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


@pytest.mark.parametrize(
    ("line", "flops"),
    [
        ("f32[8,4]{1,0} convolution(%q.1, %k), dim_labels=bf_io->bf", 2 * 8 * 4 * 4),
        ("f32[8,4]{1,0} dot(%q.1, %k), lhs_contracting_dims={1}, rhs_contracting_dims={0}", 2 * 8 * 4 * 4),
        # 2 x 2 places of a window over an image of 6 x 6, as a patch embedding
        ("f32[8,3,3,5]{3,2,1,0} convolution(%w, %p), window={size=2x2 stride=2x2}, dim_labels=b01f_01io->b01f",
         2 * 8 * 9 * 5 * 7 * 4),
        # a batch of 6 as a dilated axis: six products of (8, 4) and (4, 4)
        ("f32[6,8,4]{2,1,0} convolution(%c, %b), window={size=6 stride=5 lhs_dilate=6}, dim_labels=0bf_0io->0bf",
         2 * 6 * 8 * 4 * 4),
        # twelve heads as an axis of the kernel over a row of one: padding meets nothing
        ("f32[8,12,4]{2,1,0} convolution(%one, %heads), window={size=12 pad=11_11 rhs_reversal=1}, "
         "dim_labels=b0f_0io->b0f", 2 * 8 * 12 * 4 * 4),
    ],
)  # fmt: skip
def test_flops_of_a_loop_count_as_often_as_it_runs(line, flops):
    given = {"k": "4,4", "w": "8,6,6,7", "p": "2,2,7,5", "b": "6,4,4", "c": "6,8,4", "one": "8,1,4", "heads": "12,4,4"}
    parameters = "".join(f"  %{name} = f32[{shape}] parameter({n})\n" for n, (name, shape) in enumerate(given.items()))
    root = "  ROOT %conv = f32[8,4]{1,0} convolution(%q.1, %q.1), dim_labels=bf_io->bf"
    assert matmul_flops(hlo.parse(TEXT.replace(root, f"{parameters}  ROOT %conv = {line}"))) == 4 * flops


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
