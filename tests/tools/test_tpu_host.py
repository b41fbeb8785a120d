"""The checks for a TPU host, on two CPU devices in place of chips."""

import json
import re

from tests.replicas import two_replicas
from tools import tpu_host


def test_two_columns_side_by_side(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(tpu_host, "connect", lambda name: two_replicas())
    monkeypatch.setattr(tpu_host, "peak_bytes", lambda strategy: 3 << 30)  # TensorFlow counts no CPU's memory
    estimate = tmp_path / "estimate.json"
    estimate.write_text(json.dumps({"sigmoid": [{"seconds": 0.25, "used_gib": 2.5}]}))
    arguments = ["tests.tpu.programs:tiny", "--global-batch", "8", "--steps", "2"]
    assert tpu_host.main([*arguments, "--estimate", str(estimate)]) == 0
    rows = re.findall(r"^(\S.*?)  +(\S+) +(\S+)$", capsys.readouterr().out, re.M)
    table = {name: (float(found), float(said)) for name, found, said in rows if name != "on the chip"}
    assert table["loss, relative error"][0] < 1e-6
    assert table["seconds a step"][1] == 0.25 and table["seconds a step"][0] > 0
    assert table["peak GiB of a chip"] == (3.0, 2.5)
