"""Whose run a folder holds: the same run continues, another one is refused, and folders of earlier versions work."""

import json

import pytest

from recipes import siglip
from siglip_tf.experiments.command import chosen_settings, parser, run_folder
from siglip_tf.experiments.config import flat
from siglip_tf.experiments.run_folder import RunFolder

# Settings that runs of earlier versions did not have.
NEW = ("tune.", "augment.", "evaluate.", "image_alpha", "report", "optimizer.text_", "optimizer.layer_decay")


def test_a_folder_holds_one_run(tmp_path):
    values = flat(siglip.RECIPE.settings())
    folder = RunFolder(str(tmp_path / "run"))
    folder.claim(values)
    folder.claim({**values, "log_every": 7, "evaluate.every": 3, "data": "elsewhere"})  # these may change
    with pytest.raises(ValueError, match=r"another batch \(4096, now 8\)"):
        folder.claim({**values, "batch": 8})
    folder.claim({**values, "batch": 8}, may_change=("batch",))
    assert folder.finished(10) is None
    folder.finish({"steps": 10, "figures": []})
    assert folder.finished(10)["steps"] == 10 and folder.finished(11) is None
    folder.claim({**values, "batch": 8}, fresh=True)
    assert folder.finished(10) is None
    assert json.loads((tmp_path / "run" / "settings.json").read_text())["batch"] == 8


def test_a_run_of_an_earlier_version_continues(tmp_path):
    values = flat(siglip.RECIPE.settings())
    old = {key: value for key, value in values.items() if not key.startswith(NEW)}
    assert len(old) > 50
    (tmp_path / "settings.json").write_text(json.dumps(old))
    RunFolder(str(tmp_path)).claim(values)
    with pytest.raises(ValueError, match=r"another optimizer.name"):
        RunFolder(str(tmp_path)).claim({**values, "optimizer.name": "lion"})


def test_what_is_no_run_is_not_deleted(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds no run"):
        RunFolder(str(tmp_path)).claim({"duration": "1 steps"}, fresh=True)
    assert (tmp_path / "thesis.txt").exists()
    (tmp_path / "settings.json").write_text("{torn")
    with pytest.raises(ValueError, match="damaged"):
        RunFolder(str(tmp_path)).claim({"duration": "1 steps"})
    RunFolder(str(tmp_path / "worker"), chief=False).claim({"duration": "1 steps"})
    assert not (tmp_path / "worker").exists()  # the chief alone writes


def test_a_synthetic_run_stays_where_an_earlier_version_put_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for flag in ("--synthetic", "--embedded"):
        arguments = parser(siglip.RECIPE).parse_args([flag])
        assert arguments.synthetic
        c = chosen_settings(siglip.RECIPE, arguments)
        assert run_folder(siglip.RECIPE, arguments, c) == "runs/siglip-synthetic"
    (tmp_path / "runs" / "siglip-embedded").mkdir(parents=True)
    assert run_folder(siglip.RECIPE, arguments, c) == "runs/siglip-embedded"
    assert "--embedded" not in parser(siglip.RECIPE).format_help()
