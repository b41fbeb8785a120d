import io
import pathlib

import pytest

from recipes.studies import all as everything
from recipes.studies import bias_init, memory, plan
from recipes.studies.command import main
from recipes.studies.study import PaperRow
from tests.recipes.studies.invented import fill


def test_a_dry_run_counts_cells(tmp_path):
    out = io.StringIO()
    plan.small([bias_init.STUDY], 2, tmp_path, out)
    cells = out.getvalue()
    # Eleven shards, tokens, tower, initial loss, five rows twice, and for each a choice among three.
    assert cells.startswith("bias_init        44 cells, 0 computed")
    fill([bias_init.STUDY], 2, tmp_path)
    out = io.StringIO()
    plan.small([bias_init.STUDY], 2, tmp_path, out)
    assert "44 cells, 11 computed" in out.getvalue()


def test_the_anchor_is_estimated_as_itself():
    row = PaperRow("anchor", "siglip", "v4:2x2x1", 4096, 9e9, {"model.remat": "block"})
    gib, seconds = plan.estimate(row)
    assert gib == pytest.approx(plan.ANCHOR_GIB) and seconds == pytest.approx(plan.ANCHOR_SECONDS)


def test_estimates_grow_with_what_they_should(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def estimate(**changes):
        values = {"chips": "v4:2x2x1", "batch": 4096, "overrides": {}} | changes
        return plan.estimate(PaperRow("x", "siglip", examples=9e9, **values))

    gib, seconds = estimate()
    assert estimate(batch=8192)[1] == pytest.approx(2 * seconds, rel=1e-2)
    assert estimate(batch=8192)[0] > 1.7 * gib
    assert estimate(chips="v4:2x2x4", batch=16_384)[0] == pytest.approx(gib)
    assert estimate(overrides={"loss": "softmax"})[1] > seconds
    assert estimate(overrides={"image": "L/16"})[1] > 2 * seconds
    line = plan.look_up(memory.STUDY.paper_rows()[0])
    assert line.source == plan.ESTIMATED and "~" in line.text() and "days" in line.text()


def test_every_run_of_the_paper_has_its_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert everything.main(everything.STUDIES, "all", ["--scale", "paper", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    rows = [row for study in everything.STUDIES for row in study.paper_rows()]
    lines = [line for line in shown.splitlines() if line.startswith("  ")]
    assert len(lines) == len(rows)
    assert all("chips" in line and "batch" in line and ("fits" in line or "NOT" in line) for line in lines)


def test_what_was_compiled_is_shown_as_such(tmp_path, monkeypatch):
    from siglip_tf import tpu

    class Report:
        def to_dict(self):
            return {"fits": True, "used_gib": 20.0, "seconds": 2.0}

    asked = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(tpu, "report", lambda recipe, topology, batch: asked.append(batch) or Report())
    rows = bias_init.STUDY.paper_rows()
    first = plan.look_up(rows[1], compile_now=True)
    # Another initial value is the same program; no bias at all is another one.
    lines = [plan.look_up(row, compile_now=True) for row in rows]
    assert asked == [8192, 8192] and {line.source for line in [first, *lines]} == {plan.COMPILED}
    assert "~" not in first.text() and "2.5 days" in first.text()


def test_kept_figures_of_the_compiler_stand_for_the_same_work_on_a_chip(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    without, best, *_ = bias_init.STUDY.paper_rows()
    line = plan.look_up(best)  # 8,192 on 8 chips, another start of b and t: 1,024 a chip, as 4,096 on 4
    assert line.source == plan.KEPT and (line.seconds, line.gib) == (1.115, 10.91) and "~" not in line.text()
    assert f"{9e8 / 8192 * 1.115 / 86400:.1f} days" in line.text()
    assert plan.look_up(without).source == plan.ESTIMATED
    # The compiler's table in docs/tpu.md holds what is kept.
    table = (pathlib.Path(plan.__file__).parents[2] / "docs" / "tpu.md").read_text().replace("**", "")
    for program in plan._programs():
        assert f"| {program['batch']:,} | {program['seconds']:g} | {program['used_gib']:g} |" in table


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--scale", "paper"], "--dry-run"),
        (["--seeds", "0"], "--seeds"),
        (["--workers", "0"], "--workers"),
        (["--minutes", "0"], "--minutes"),
        (["--compile"], "--compile belongs"),
    ],
)
def test_what_cannot_be_done_is_refused(arguments, message, capsys):
    assert main([bias_init.STUDY], "bias_init", arguments) == 2
    assert message in capsys.readouterr().err
