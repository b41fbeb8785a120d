"""The report's command line, tables and page, over made-up answers of the compiler; compiling is tested elsewhere."""

import dataclasses
import json
import re
import xml.etree.ElementTree

import pytest
import tensorflow as tf

from recipes import siglit
from siglip_tf import tpu
from siglip_tf.optimizers import Lion
from siglip_tf.tpu.topology import GIB
from tools import tpu_report
from tools.tpu import paper

COST = tpu.Cost(
    seconds=1.0,
    collective_seconds=0.01,
    by_kind={"matmul": 0.6, "attention": 0.3, "optimizer": 0.1},
    ops=(tpu.Op("matmul", "fusion", "block/mlp/fc1/MatMul", "bf16[200704,3072]", 12, 0.6),),
    hops=(tpu.Hop("f32[1024,768]", 3 << 20, 3, True, 2e-4, 4, 1e-5),),
    unknown_loops=0,
    flops=1e14,
)


def answer(recipe, topology, global_batch, progress=None, **overrides):
    """Memory and time that grow along a line, steeper for softmax and less steep with microbatches."""
    per_example = 0.008 if overrides.get("loss") == "softmax" else 0.004
    per_example /= 16 if "microbatch_size" in overrides or siglit.RECIPE in getattr(recipe, "args", ()) else 1
    used = int((3 + per_example * global_batch / topology.chips * 4) * GIB)
    cost = dataclasses.replace(COST, seconds=global_batch * 1e-3 / topology.chips)
    fits = used <= topology.chip.usable
    memory = {"argument": GIB, "output": GIB, "alias": GIB, "temp": used - GIB, "generated_code": 0, "peak": used}
    return tpu.Report(
        topology=topology,
        global_batch=global_batch,
        fits=fits,
        used=used,
        memory=memory if fits else None,
        cost=cost if fits else None,
        examples=9e9,
        parameters=203_155_970,
        compiler="jax 0, libtpu 0",
    )


@pytest.fixture
def made_up(monkeypatch):
    monkeypatch.setattr(tpu, "report", answer)


def run(capsys, *arguments):
    code = tpu_report.main([str(a) for a in arguments])
    return code, *capsys.readouterr()


def test_one_batch_as_a_table(made_up, capsys):
    code, out, err = run(capsys, "siglip", "--global-batch", 4096)
    assert code == 0 and "global batch 4096, for v4:2x2x1" in err
    assert re.search(r"4096 +19\.38 +30\.75 +1\.024 +1000 ", out) is not None
    for part in (
        "203,155,970 weights",
        "matmul 59%",
        "hop f32[1024,768] x 3: asynchronous",
        "fc1/MatMul",
        "leaves out",
    ):
        assert part in out


def test_a_search_with_two_losses_as_json_and_as_a_page(made_up, capsys, tmp_path):
    page = tmp_path / "report.html"
    code, out, _ = run(capsys, "siglip", "--search-batch", "--compare", "softmax", "--json", "--html", page)
    groups = json.loads(out)
    largest = {name: max(r["global_batch"] for r in reports if r["fits"]) for name, reports in groups.items()}
    assert code == 0 and largest == {"sigmoid": 6912, "softmax": 3328}
    refused = [r for r in groups["softmax"] if not r["fits"]]
    assert refused and all(r["short_by_gib"] > 0 and r["seconds"] is None for r in refused)
    text = page.read_text()
    svg = xml.etree.ElementTree.fromstring(re.search(r"<svg.*?</svg>", text, re.S)[0])
    kinds = [element.tag for element in svg]
    assert kinds.count("polyline") == 2 and kinds.count("circle") == sum(map(len, groups.values()))
    assert "does not fit by" in text and not re.search(r"(src|href)=", text)  # one file, nothing fetched


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing_such"], "Expected a recipe with tpu_subject"),
        (["tools.tpu.paper:nothing"], "Expected a recipe with tpu_subject"),
        (["siglip", "--topology", "v3:2x2"], "Received: 'v3:2x2'"),
        (["siglip", "--set", "remat"], "Expected --set name=value"),
        (["siglip", "--search-batch", "--global-batch", 1000], "multiple of 256"),
    ],
)
def test_wrong_arguments_are_named(made_up, capsys, arguments, message):
    code, out, err = run(capsys, *arguments)
    assert code == 2 and not out and message in err


def test_a_batch_that_chips_do_not_divide_is_refused_before_anything_is_built(capsys):
    code, _, err = run(capsys, "siglip", "--global-batch", 4097)
    assert code == 2 and "4 chips divide" in err


def test_every_row_of_the_paper_is_judged(made_up, capsys, monkeypatch):
    monkeypatch.setattr(paper, "_loss_alone", lambda out, progress: 0)
    code, out, _ = run(capsys, "--paper")
    assert code == 1  # made-up figures do not hold all that is claimed
    assert out.startswith(f"Compiled by {tpu.compiler_version()}; traced by TensorFlow {tf.__version__}")
    for row in paper.rows():
        assert f"{row.name}: global batch {row.global_batch}" in out
    assert "holds: at most 1.5 s" in out and "FAILS: at most 12 GiB" in out
    assert re.search(r"sigmoid: 6\d\d\d; paper: 4096", out) and re.search(r"softmax: 3\d\d\d; paper: 2048", out)
    names = [row.name for row in paper.rows()]
    assert len(set(names)) == len(names)


def test_rows_are_recipes_at_the_papers_chips_and_batches():
    sizes = {row.name: (tpu.Topology(row.topology).chips, row.global_batch) for row in paper.rows()}
    assert sizes["B/16 4096"] == (4, 4096) and sizes["B/16 32768, microbatches"] == (4, 32_768)
    # Table 1.
    assert sizes["SigLiT B/8 + L*, 32k"] == (4, 32_768) and sizes["SigLiT g/14 + L, 20k"] == (4, 20_480)
    assert sizes["SigLIP B/16 unlocked, 16k on 16 chips"] == (16, 16_384)
    assert sizes["SigLIP B/16, 32k on 32 chips"] == (32, 32_768)
    with tpu.weightless_scope(tpu.made_up_tpu_strategy(1)):
        made = paper.subject(siglit.RECIPE, "b8", text_depth=1, examples=18e9)
    assert isinstance(made.model.optimizer, Lion) and made.model.optimizer.schedule is None
    assert made.examples == pytest.approx(18e9, rel=1e-5) and not made.model.tower_norms


def test_help_answers(capsys):
    with pytest.raises(SystemExit, match="0"):
        tpu_report.main(["--help"])
    assert "--search-batch" in capsys.readouterr().out
