"""The checks for a TPU host, on two CPU devices in place of chips."""

import json
import re
from pathlib import Path

import pytest

from siglip_tf.distribution import tpu_system
from tests.replicas import two_replicas
from tools import tpu_host
from tools.tpu import check, measure


@pytest.mark.slow
def test_two_columns_side_by_side(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(tpu_system, "connect", lambda name: two_replicas())
    monkeypatch.setattr(measure, "peak_bytes", lambda strategy: 3 << 30)  # TensorFlow counts no CPU's memory
    estimate = tmp_path / "estimate.json"
    estimate.write_text(json.dumps({"sigmoid": [{"seconds": 0.25, "used_gib": 2.5}]}))
    arguments = ["tests.tpu.programs:tiny", "--global-batch", "8", "--steps", "2"]
    assert tpu_host.main([*arguments, "--estimate", str(estimate)]) == 0
    rows = re.findall(r"^(\S.*?)  +(\S+) +(\S+)$", capsys.readouterr().out, re.M)
    table = {name: (float(found), float(said)) for name, found, said in rows if name != "on the chip"}
    assert table["loss, relative error"][0] < 1e-6
    assert table["seconds a step"][1] == 0.25 and table["seconds a step"][0] > 0
    assert table["peak GiB of a chip"] == (3.0, 2.5)


def test_names_are_found_in_a_library_and_missed_in_another(tmp_path):
    core = tmp_path / "core.so"
    core.write_bytes(
        b"\0Tpu_One not available in this library.\0xx\0malloc not available in this library.\0Tpu_Two not"
    )
    assert check.looked_up(core) == ["Tpu_One", "malloc"]
    assert check.missing_names(Path("libc.so.6"), ["malloc", "Tpu_One"]) == ["Tpu_One"]


def test_a_check_stops_at_the_first_step_that_fails(monkeypatch, capsys):
    def lacking():
        raise check.CheckFailedError("libtpu lacks a name")

    monkeypatch.setattr(check, "_versions", lambda: "tensorflow 2.20.0")
    monkeypatch.setattr(check, "_names", lacking)
    assert tpu_host.main(["--check"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "versions: tensorflow 2.20.0",
        "libtpu's names: libtpu lacks a name",
    ]


@pytest.mark.parametrize(
    ("text", "name", "said"),
    [
        ("INTERNAL: Failed to get global TPU topology.", "local", "has no TPU chips"),
        ("TPUs not found in the cluster. Failed in initialization: No matching devices", "local", "has no TPU chips"),
        ("The TPU is already in use by process with pid 321. Not attempting", "local", "in use by process 321: end it"),
        ("Internal error when accessing libtpu multi-process lockfile. Run", "local", "sudo rm /tmp/libtpu_lockfile"),
        ("failed to connect to all addresses; last error: UNKNOWN", "grpc://h:1", "'grpc://h:1' does not answer"),
        ("something new", "node", "cannot use TPU 'node': something new"),
    ],
)
def test_errors_of_tensorflow_become_a_sentence(text, name, said):
    assert said in tpu_system.explain(RuntimeError(text), name)


def test_chips_are_counted_on_the_bus(tmp_path):
    for number, (vendor, device) in enumerate([("0x1ae0", "0x005e"), ("0x1ae0", "0x0001"), ("0x8086", "0x005e")]):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "vendor").write_text(vendor + "\n")
        (tmp_path / str(number) / "device").write_text(device + "\n")
    assert tpu_system.attached_chips(tmp_path) == 1


def test_a_metadata_server_is_asked_on_cloud_machines_alone(monkeypatch):
    for cloud in (False, True):
        monkeypatch.setattr(tpu_system, "is_cloud_machine", lambda cloud=cloud: cloud)
        environment = {}
        tpu_system.skip_metadata_server(environment)
        assert ("TPU_SKIP_MDS_QUERY" in environment) is not cloud
