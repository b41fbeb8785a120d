"""New version folders are loaded while requests run, half-written ones never, and old ones end with their requests."""

import os
import shutil
import threading
import time

import pytest
import requests

from siglip_tf.serve import Limits, ModelServer
from siglip_tf.serve.signature import Signature
from tests.serve.tiny_model import running, write_version

BODY = '{"instances": [2.0]}'


def ask(server, path="/v1/models/m:predict", **options):
    return requests.post(server.url + path, data=BODY, timeout=30, **options)


def wait_for(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def states(server):
    rows = requests.get(f"{server.url}/v1/models/m", timeout=30).json()["model_version_status"]
    return {row["version"]: row["state"] for row in rows}


def test_reload_under_load(tmp_path):
    base = tmp_path / "m"
    base.mkdir()
    write_version(base, 1, scale=1.0)
    with running({"m": base}) as server:
        answers, stop = [], threading.Event()

        def load():
            with requests.Session() as session:
                while not stop.is_set():
                    answer = session.post(f"{server.url}/v1/models/m:predict", data=BODY, timeout=30)
                    answers.append((answer.status_code, answer.text))
                    time.sleep(0.01)  # a load, not all processors

        clients = [threading.Thread(target=load) for _ in range(3)]
        for client in clients:
            client.start()
        write_version(base, 2, scale=10.0)
        wait_for(lambda: states(server).get("2") == "AVAILABLE")
        wait_for(lambda: states(server).get("1") == "END")
        wait_for(lambda: (200, '{"predictions":[30.0]}') in answers)
        stop.set()
        for client in clients:
            client.join()
        # Every request was answered, by the old version and then by the new one.
        assert {*answers} == {(200, '{"predictions":[3.0]}'), (200, '{"predictions":[30.0]}')}
        assert ask(server, "/v1/models/m/versions/1:predict").status_code == 404

        shutil.rmtree(base / "2")  # back to the old one
        wait_for(lambda: states(server).get("1") == "AVAILABLE")
        wait_for(lambda: ask(server).json() == {"predictions": [3.0]})


def test_half_written_and_broken_versions(tmp_path):
    base, store = tmp_path / "m", tmp_path / "store"
    base.mkdir()
    store.mkdir()
    write_version(base, 1)
    complete = write_version(store, 2, scale=10.0)
    with running({"m": base}) as server:
        # A slow copy: the graph comes first, the weights later.
        target = base / "2"
        (target / "variables").mkdir(parents=True)
        shutil.copytree(complete / "assets.extra", target / "assets.extra")
        for name in ("saved_model.pb", "fingerprint.pb"):
            shutil.copy(complete / name, target)
        names = sorted(os.listdir(complete / "variables"))
        data = (complete / "variables" / names[0]).read_bytes()
        (target / "variables" / names[0]).write_bytes(data[: len(data) // 2])
        time.sleep(0.4)
        assert states(server) == {"1": "AVAILABLE"}
        (target / "variables" / names[0]).write_bytes(data)
        time.sleep(0.2)
        assert states(server) == {"1": "AVAILABLE"}
        shutil.copy(complete / "variables" / names[1], target / "variables")
        wait_for(lambda: ask(server).json() == {"predictions": [30.0]})

        # Complete, and no SavedModel: the version in service stays.
        (base / "3").mkdir()
        (base / "3" / "saved_model.pb").write_bytes(b"nothing of the kind")
        wait_for(lambda: states(server).get("3") == "END")
        rows = requests.get(f"{server.url}/v1/models/m/versions/3", timeout=30).json()["model_version_status"]
        assert rows[0]["status"]["error_code"] == "INTERNAL"
        assert rows[0]["status"]["error_message"]
        assert ask(server).json() == {"predictions": [30.0]}
        for name in ("04", "-5", "6.partial", ".7", "eight"):
            shutil.copytree(complete, base / name)
        write_version(base, 9, scale=100.0)
        wait_for(lambda: ask(server).json() == {"predictions": [300.0]})
        assert set(states(server)) <= {"1", "2", "3", "9"}


@pytest.mark.slow
def test_several_versions_and_models(tmp_path):
    for name in ("m", "n"):
        (tmp_path / name).mkdir()
    for number, scale in ((1, 1.0), (2, 10.0), (3, 100.0)):
        write_version(tmp_path / "m", number, scale)
    write_version(tmp_path / "n", 5, 7.0)
    with running({"m": tmp_path / "m", "n": tmp_path / "n"}, keep_versions=2) as server:
        assert ask(server).json() == {"predictions": [300.0]}
        assert ask(server, "/v1/models/m/versions/2:predict").json() == {"predictions": [30.0]}
        assert ask(server, "/v1/models/m/versions/1:predict").status_code == 404
        assert ask(server, "/v1/models/n:predict").json() == {"predictions": [21.0]}


def test_stop_answers_what_is_in_flight(tmp_path, monkeypatch):
    (tmp_path / "m").mkdir()
    write_version(tmp_path / "m", 1)
    run, entered = Signature.run, threading.Event()

    def slow(self, arrays):
        entered.set()
        time.sleep(0.5)
        return run(self, arrays)

    with running({"m": tmp_path / "m"}) as server:
        monkeypatch.setattr(Signature, "run", slow)
        answers = []
        client = threading.Thread(target=lambda: answers.append(ask(server)))
        client.start()
        assert entered.wait(10)
        server.stop()
        client.join()
    assert answers[0].json() == {"predictions": [3.0]}
    assert answers[0].headers["Connection"] == "close"
    with pytest.raises(requests.ConnectionError):
        ask(server)


def test_deadline(tiny_base, monkeypatch):
    limits = Limits(seconds=0.2)
    with running({"m": tiny_base}, limits=limits) as server:
        run = Signature.run
        monkeypatch.setattr(Signature, "run", lambda self, arrays: time.sleep(0.6) or run(self, arrays))
        answer = ask(server)
        assert (answer.status_code, answer.json()) == (504, {"error": "No answer within 0.2 s."})


def test_a_model_that_does_not_load_ends_the_start(tmp_path):
    (tmp_path / "m" / "1").mkdir(parents=True)
    (tmp_path / "m" / "1" / "saved_model.pb").write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match="no version that can be served: version 1: "), running({"m": tmp_path / "m"}):
        pass
    with pytest.raises(ValueError, match="Expected .* to hold folders like 1/"):
        ModelServer({"m": tmp_path})
