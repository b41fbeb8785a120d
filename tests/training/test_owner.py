"""One process at a time in a run's folder, and a mark of a process that has ended locks nobody out."""

import json
import os
import socket
import subprocess
import sys

import pytest

from siglip_tf.training import RunFolderInUseError
from siglip_tf.training.owner import HEARTBEAT, STALE, Owner, boot_id, process_start
from tests.object_store import ObjectStore


def mark(path, **changed):
    content = {"host": socket.gethostname(), "process": os.getpid(), "started": process_start(os.getpid())}
    content |= {"boot": boot_id(), "heartbeat": 1000.0, **changed}
    path.write_text(json.dumps(content))


def test_another_living_process_is_named(tmp_path):
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        mark(tmp_path / "owner.json", process=other.pid, started=process_start(other.pid))
        # However old its heartbeat is: a process may be stopped or wait for a disk.
        owner = Owner(str(tmp_path), clock=lambda: 1e9)
        words = (
            rf"{tmp_path} is in use: process {other.pid} on {socket.gethostname()}.*Wait for it.*delete .*owner\.json"
        )
        with pytest.raises(RunFolderInUseError, match=words):
            owner.claim()
        owner.release()  # takes nothing that is not its own
        assert (tmp_path / "owner.json").exists()
    finally:
        other.kill()
        other.communicate()
    said = []
    owner = Owner(str(tmp_path), said.append)
    owner.claim()  # after its SIGKILL
    (text,) = said
    assert text.startswith(f"Took over {tmp_path} from process {other.pid} on {socket.gethostname()}, which ended")
    assert json.loads((tmp_path / "owner.json").read_text())["process"] == os.getpid()
    owner.release()
    assert os.listdir(tmp_path) == []


def test_marks_that_lock_nobody_out(tmp_path):
    path = tmp_path / "owner.json"
    now = 5000.0
    stale = [
        {"host": "another", "heartbeat": now - STALE - 1},
        {"boot": "before the restart", "heartbeat": now - STALE - 1},
        {"process": 1 << 30},
        {"process": 1, "started": 7},  # the number was given to another process since
    ]
    for changed in stale:
        mark(path, **changed)
        owner = Owner(str(tmp_path), lambda text: None, clock=lambda: now)
        owner.claim()
        owner.release()
        assert not path.exists(), changed
    for torn in ("", "{", "[]", '{"host": "a"}'):
        path.write_text(torn)
        owner = Owner(str(tmp_path))
        owner.claim()
        owner.release()
    mark(path)  # this process's own, from a run that ended by an exception
    first, second = Owner(str(tmp_path)), Owner(str(tmp_path))
    first.claim()
    second.claim()
    second.release()
    first.release()
    assert not path.exists()


def test_a_process_of_another_host_lives_as_long_as_its_heart_beats(tmp_path):
    mark(tmp_path / "owner.json", host="another", heartbeat=1000.0)
    words = r"process \d+ on another trains in it \(its last heartbeat was 30 s ago; a mark is stale after 120 s\)"
    with pytest.raises(RunFolderInUseError, match=words):
        Owner(str(tmp_path), clock=lambda: 1030.0).claim()
    assert STALE > 3 * HEARTBEAT


def test_the_heart_beats_on(tmp_path, monkeypatch):
    monkeypatch.setattr("siglip_tf.training.owner.HEARTBEAT", 0.02)
    times = iter(range(1000, 100_000))
    owner = Owner(str(tmp_path), clock=lambda: float(next(times)))
    owner.claim()
    first = json.loads((tmp_path / "owner.json").read_text())["heartbeat"]
    while json.loads((tmp_path / "owner.json").read_text())["heartbeat"] < first + 2:
        pass
    owner.release()


def test_a_mark_in_an_object_store(monkeypatch):
    store = ObjectStore().install(monkeypatch)
    owner = Owner("gs://bucket/run")
    owner.claim()
    assert set(store.objects) == {"gs://bucket/run/owner.json"}
    owner.release()
    assert store.objects == {}
