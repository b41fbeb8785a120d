import dataclasses
import json
import os
import signal
import subprocess
import sys

import pytest

from recipes.studies import cell as cells
from recipes.studies import source, sweep
from recipes.studies.cell import Cell, with_requirements
from tests.recipes.studies.light import LIGHT, MODULE, light


@pytest.fixture(autouse=True)
def _light_kind(monkeypatch):
    monkeypatch.setitem(cells.KINDS, "light", LIGHT)


def test_the_key_is_the_content(monkeypatch):
    key = Cell("light", {"number": 1, "sleep": 0}).key
    assert Cell("light", {"sleep": 0, "number": 1}, "another label").key == key
    assert Cell("light", {"number": 2, "sleep": 0}).key != key


def test_a_cell_is_stale_once_its_source_changed(tmp_path, monkeypatch):
    code = tmp_path / "code.py"
    monkeypatch.setitem(source._PLACES, "here", tmp_path)
    monkeypatch.setitem(cells.KINDS, "light", dataclasses.replace(LIGHT, source=("here/code.py",)))

    def outcome(text):
        code.write_text(text)
        source._digest.cache_clear()
        cell = light(1)
        return cell.result(tmp_path), cell.changes(tmp_path)

    assert outcome('"""Doc."""\nx = 1\n') == (None, [])
    cells.write_result(light(1), tmp_path, {"value": 2}, 0.0)
    assert outcome('"""Another doc."""\n# a comment\nx = 1\n') == ({"value": 2}, [])
    assert outcome("x = 2\n") == (None, ["here/code.py"])


def test_needed_cells_come_first_and_once():
    ordered = with_requirements([light(2, after=1), light(3, after=1), light(2, after=1)])
    assert [cell.settings["number"] for cell in ordered] == [1, 2, 3]


def test_a_sweep_computes_what_is_missing_and_says_what_is_left(tmp_path):
    said = []
    wanted = [light(i, after=10) for i in range(5)]
    assert set(sweep.run(wanted, tmp_path, 2, said.append, MODULE, seconds=0.0).values()) == {None} and not said
    results = sweep.run(wanted, tmp_path, 2, said.append, MODULE)
    assert [results[cell.key]["value"] for cell in wanted] == [0, 2, 4, 6, 8]
    assert len(said) == 6 and said[0].startswith("[1/6] cell 10") and "value 20" in said[0]
    assert "min left" in said[3] and "min left" not in said[-1]
    again = []
    assert sweep.run(wanted, tmp_path, 2, again.append, MODULE) == results and not again


@pytest.mark.slow
def test_a_failing_cell_ends_the_sweep_with_its_name(tmp_path, capfd):
    with pytest.raises(RuntimeError, match="'cell 7' ended with exit code 1"):
        sweep.run([light(7, fails=True)], tmp_path, 1, lambda text: None, MODULE)
    assert "this cell is meant to fail" in capfd.readouterr().err
    assert light(7, fails=True).result(tmp_path) is None


@pytest.mark.slow
def test_a_killed_sweep_goes_on_where_it_was(tmp_path):
    """Two cells, killed after the first: the first stays as it is, the second is computed."""
    command = [sys.executable, "-m", "tests.recipes.studies.light", str(tmp_path), "2", "1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    process.stdout.readline()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    first, second = (light(i, 0.3) for i in range(2))
    kept = first.folder(tmp_path) / "result.json"
    written = kept.stat().st_mtime_ns
    # Its worker ends with the cell that it is at. That cell may or may not be complete by now; both are right.
    results = sweep.run([first, second], tmp_path, 1, print, MODULE)
    assert [results[cell.key] for cell in (first, second)] == [{"value": 0}, {"value": 2}]
    assert kept.stat().st_mtime_ns == written and (first.folder(tmp_path) / "begun").read_text() == "x"
    whole = json.loads((second.folder(tmp_path) / "result.json").read_text())
    assert whole["settings"] == second.settings
