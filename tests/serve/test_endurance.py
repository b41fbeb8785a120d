"""An exported model behind `python -m tools.serve`, as a process of its own: load, hostile requests, a kill."""

import json
import signal

import numpy as np
import pytest
import requests

from siglip_tf.export import export_saved_model
from tests.example_model import example_model, pictures
from tools import serve
from tools.benchmark._server_process import ServerProcess, serving
from tools.benchmark._serving_endurance import endure, kill
from tools.benchmark._serving_hostile import Hostile
from tools.benchmark._serving_load import Question
from tools.benchmark._serving_verdicts import bombard

pytestmark = pytest.mark.slow
PICTURES = pictures(4)
QUESTIONS = [
    Question("embed_image", {"images": PICTURES[:1]}),
    Question("embed_text", {"texts": ["a red circle", "großes Quadrat"]}),
    Question("score", {"images": PICTURES[1:2], "texts": ["a", "b", "c"]}),
    Question("classify", {"images": PICTURES[2:], "labels": ["circle", "square"]}),
]


@pytest.fixture(scope="module")
def model():
    return example_model()


@pytest.fixture(scope="module")
def base(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("served") / "model"
    export_saved_model(model, folder)
    return folder


def test_load_and_hostile_requests(model, base):
    inputs = {"embed_image": ["images"], "embed_text": ["texts"], "score": ["images", "texts"]}
    inputs |= {"classify": ["images", "labels"], "embed_image_pixels": ["pixels"]}
    with serving(base) as server:
        sound = {"signature_name": "embed_text", "instances": ["a red circle", "großes Quadrat"]}

        def embeddings():
            answer = requests.post(f"{server.url}:predict", data=json.dumps(sound), timeout=60)
            return np.array(answer.json()["predictions"])

        expected = np.asarray(model.encode_text(model.preprocessing.text(sound["instances"])))
        np.testing.assert_allclose(embeddings(), expected, rtol=0, atol=1e-5)
        endure(server, QUESTIONS, 600)
        found = endure(server, QUESTIONS, 3_000)
        assert found.load.errors == {}
        assert len(found.load.seconds) == 3_000
        sizes = [size for _, size in found.memory]
        assert sizes[-1] - sizes[0] < 64 * 2**20
        outcome = bombard(server, Hostile(3, PICTURES[0], inputs), 1_500)
        assert outcome.wrong == []
        assert outcome.statuses["REST 400"] > 200
        assert outcome.statuses["gRPC INVALID_ARGUMENT"] > 200
        assert server.process.poll() is None
        np.testing.assert_allclose(embeddings(), expected, rtol=0, atol=1e-5)
        assert server.stop() == 0
        assert "Traceback" not in "".join(server.log)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_signal_under_load(base, number):
    found = kill(base, QUESTIONS, number, seconds=2.0)
    assert found.answered > 0
    # A client sees a connection that ends, never an answer that is cut or wrong. One that SIGTERM finds between two
    # requests may find its connection closed; whoever asked before gets an answer.
    clean = {"ConnectionResetError", "RemoteDisconnected", "ConnectionRefusedError", "BrokenPipeError"}
    assert set(found.failed) <= clean
    assert sum(found.failed.values()) <= found.most_in_flight
    assert (found.answered_after, found.errors_after) == (200, {})


def test_what_keeps_a_server_from_starting(base, tmp_path, capsys):
    for arguments, message in (
        (["--token-file", str(tmp_path / "none")], "none"),
        (["--batch-sizes", "4,2"], "ascending"),
        (["--tls-cert", "x.pem"], "together"),
    ):
        assert serve.main([str(base), *arguments]) != 0
        assert message in capsys.readouterr().err
    with pytest.raises(RuntimeError, match="hold folders like 1/"):
        ServerProcess(tmp_path)
