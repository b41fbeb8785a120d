"""Requests as TensorFlow Serving's documentation writes them, typed out, and answers in its shapes."""

import base64
import gzip
import json

import numpy as np
import pytest
import requests
import tensorflow as tf

from tests.serve.tiny_model import running


def png(red: int, green: int, blue: int) -> bytes:
    return tf.io.encode_png(np.full((4, 5, 3), (red, green, blue), np.uint8)).numpy()


def in_base64(*pictures: bytes) -> str:
    return ", ".join(json.dumps({"b64": base64.b64encode(data).decode()}) for data in pictures)


def ask(server, body, path="/v1/models/tiny:predict"):
    answer = requests.post(server.url + path, data=body, timeout=30)
    assert answer.headers["Content-Type"] == "application/json"
    return answer.status_code, answer.json()


def test_documented_requests(server):
    cases = [
        ('{"instances": [1.0, 2.0, 5.0]}', {"predictions": [2.5, 3.0, 4.5]}),
        ('{"instances": [{"x": 1.0}, {"x": 2}]}', {"predictions": [2.5, 3.0]}),
        ('{"signature_name": "serving_default", "inputs": [1.0, 2.0]}', {"outputs": [2.5, 3.0]}),
        ('{"signature_name": "", "inputs": {"x": [1.0]}}', {"outputs": [2.5]}),
        ('{"inputs": {"x": []}}', {"outputs": []}),
        (
            '{"signature_name": "embed_text", "instances": ["a", "\\u00e9\\u00df"]}',
            {
                "predictions": [
                    {"length": 1, "raw_bytes": {"b64": "YQ=="}, "upper": "A"},
                    {"length": 4, "raw_bytes": {"b64": "w6nDnw=="}, "upper": "éß"},
                ]
            },
        ),
        (
            '{"signature_name": "embed_text", "inputs": {"texts": [{"b64": "YWI="}]}}',
            {"outputs": {"length": [2], "raw_bytes": [{"b64": "YWI="}], "upper": ["AB"]}},
        ),
        (
            '{"signature_name": "embed_image_pixels", "instances": [[[[1, 2, 3], [3, 4, 5]]]]}',
            {"predictions": [[2.0, 3.0, 4.0]]},
        ),
        (
            '{"signature_name": "fixed", "inputs": {"a": [1, 2], "b": [true, false, true]}}',
            {"outputs": {"count": 2, "sum": 3}},
        ),
        ('{"inputs": [NaN, Infinity]}', {"outputs": [float("nan"), float("inf")]}),
        ('{"inputs": [1.0], "instances_of_something": 3}', {"outputs": [2.5]}),
    ]
    for body, expected in cases:
        status, answer = ask(server, body)
        assert (status, json.dumps(answer, sort_keys=True)) == (200, json.dumps(expected, sort_keys=True)), body
    for path in ("/v1/models/tiny/versions/1:predict", "/V1/Models/tiny:Predict"):
        assert ask(server, '{"instances": [1.0]}', path) == (200, {"predictions": [2.5]})


def test_pictures(server):
    pictures = [png(10, 20, 30), png(1, 2, 3)]
    rows = in_base64(*pictures)
    assert ask(server, '{"signature_name": "embed_image", "instances": [PICTURES]}'.replace("PICTURES", rows)) == (
        200,
        {"predictions": [[10.0, 20.0, 30.0], [1.0, 2.0, 3.0]]},
    )
    body = '{"signature_name": "score", "inputs": {"images": [PICTURES], "texts": ["a", "bcd", ""]}}'.replace(
        "PICTURES", rows
    )
    assert ask(server, body) == (200, {"outputs": [[61.0, 63.0, 60.0], [7.0, 9.0, 6.0]]})
    body = '{"signature_name": "embed_image", "inputs": [PICTURES]}'.replace("PICTURES", in_base64(pictures[0]))
    body = body.replace("=", "")  # padding is optional
    assert ask(server, body) == (200, {"outputs": [[10.0, 20.0, 30.0]]})
    # More rows than a batch holds.
    rows = in_base64(*pictures[1:] * 70)
    status, answer = ask(server, '{"signature_name": "embed_image", "instances": [PICTURES]}'.replace("PICTURES", rows))
    assert status == 200
    np.testing.assert_array_equal(answer["predictions"], [[1, 2, 3]] * 70)


def test_status_and_metadata(server):
    expected = {
        "model_version_status": [
            {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
        ]
    }
    for path in ("/v1/models/tiny", "/v1/models/tiny/versions/1"):
        assert requests.get(server.url + path, timeout=30).json() == expected
    answer = requests.get(f"{server.url}/v1/models/tiny/metadata", timeout=30).json()
    assert answer["model_spec"] == {"name": "tiny", "signature_name": "", "version": "1"}
    signature = answer["metadata"]["signature_def"]["signature_def"]["embed_image_pixels"]
    assert signature["method_name"] == "tensorflow/serving/predict"
    pixels = signature["inputs"]["pixels"]
    assert pixels["dtype"] == "DT_UINT8"
    assert pixels["tensor_shape"] == {
        "dim": [{"size": size, "name": ""} for size in ("-1", "-1", "-1", "3")],
        "unknown_rank": False,
    }
    for path in ("/v1/models/other", "/v1/models/tiny/versions/7", "/v1/models/tiny/versions/7/metadata"):
        answer = requests.get(server.url + path, timeout=30)
        assert answer.status_code == 404
        assert answer.json().keys() == {"error"}


def test_health_and_metrics(server):
    assert requests.get(f"{server.url}/healthz", timeout=30).status_code == 200
    assert requests.get(f"{server.url}/readyz", timeout=30).json() == {"ready": True}
    ask(server, '{"instances": [1.0]}')
    ask(server, "no json", "/v1/models/made-up:predict")
    for path in ("/metrics", "/monitoring/prometheus/metrics"):
        text = requests.get(server.url + path, timeout=30).text
        assert 'code="OK",model="tiny",signature="serving_default"' in text
        assert 'siglip_serve_version_available{model="tiny",version="1"} 1.0' in text
        assert "siglip_serve_batch_rows_bucket" in text
        assert "made-up" not in text


# body, what the error names
REFUSED = [
    ("", "JSON Parse error"),
    ("{", "JSON Parse error"),
    ("\xff\xfe".encode("latin-1"), "JSON Parse error"),
    ("[1]", "JSON object"),
    ("null", "JSON object"),
    ("[" * 100_000, "JSON Parse error"),
    ('{"inputs": ' + "9" * 5_000 + "}", "JSON Parse error"),
    ("{}", "Missing 'inputs' or 'instances' key"),
    ('{"inputs": [1], "instances": [1]}', "Received: both"),
    ('{"instances": []}', "instances: expected at least one value"),
    ('{"instances": {"x": 1}}', "instances: expected a list"),
    ('{"instances": [1, {"x": 1}]}', "instances[1]"),
    ('{"instances": [{"x": 1}, {"y": 1}]}', "instances[1]: expected the names x"),
    ('{"inputs": {"x": [1], "y": [1]}}', "Unknown: y"),
    ('{"inputs": {}}', "Missing: x"),
    ('{"inputs": 1}', "x: expected the shape (any)"),
    ('{"inputs": [[1]]}', "x: expected the shape (any)"),
    ('{"inputs": [[1], 2]}', "x: expected numbers in lists of equal lengths"),
    ('{"inputs": ["1"]}', "x: expected values of type float32"),
    ('{"inputs": [null]}', "x: expected values of type float32"),
    ('{"inputs": [true]}', "x: expected values of type float32"),
    ('{"inputs": [1e39]}', "x: a value is too large for float32"),
    ('{"inputs": {"b64": "AAAA"}}', "x: "),
    ('{"inputs": [' + "1," * 300 + "1]}", "x: expected at most 256 rows. Received: 301"),
    ('{"signature_name": 3, "inputs": [1]}', "signature_name"),
    ('{"signature_name": "nope", "inputs": [1]}', 'name: "nope" not found'),
    ('{"signature_name": "__saved_model_init_op", "inputs": [1]}', "not found"),
    ('{"signature_name": "embed_text", "inputs": [1]}', "texts[0]: expected a string"),
    ('{"signature_name": "embed_text", "inputs": ["a", ["b"]]}', "texts[1]: expected a string"),
    ('{"signature_name": "embed_text", "inputs": [["a"], ["b", "c"]]}', "texts[1]: expected a list of 1"),
    ('{"signature_name": "embed_text", "inputs": ["\\ud800"]}', "texts[0]: expected text"),
    ('{"signature_name": "embed_text", "inputs": [{"b64": "?"}]}', "texts[0]: the b64 value"),
    ('{"signature_name": "embed_text", "inputs": [{"b64": 3}]}', "texts[0]"),
    ('{"signature_name": "embed_text", "inputs": [{"b64": "YQ==", "x": 1}]}', "texts[0]"),
    ('{"signature_name": "embed_image", "inputs": ["no picture"]}', "images[0]"),
    ('{"signature_name": "number", "inputs": ["1", {"b64": "k/8="}]}', r"texts[1]: StringToNumberOp"),
    ('{"signature_name": "embed_image_pixels", "inputs": [[[[256, 0, 0]]]]}', "pixels: expected uint8 values from 0"),
    ('{"signature_name": "embed_image_pixels", "inputs": [[[[-1, 0, 0]]]]}', "pixels: expected uint8"),
    ('{"signature_name": "embed_image_pixels", "inputs": [[[[0.5, 0, 0]]]]}', "pixels: expected values of type uint8"),
    ('{"signature_name": "embed_image_pixels", "inputs": [[[[0, 0]]]]}', "pixels: expected the shape"),
    ('{"signature_name": "embed_image_pixels", "inputs": []}', "pixels: expected the shape"),
    ('{"signature_name": "score", "inputs": ["a"]}', "inputs: expected an object with images, texts"),
    ('{"signature_name": "score", "instances": ["a"]}', "instances: expected objects with images, texts"),
    ('{"signature_name": "score", "inputs": {"images": [], "texts": ["bad"]}}', "texts: This text is bad."),
    ('{"signature_name": "fixed", "instances": [{"a": 1, "b": true}, {"a": 1, "b": true}]}', "first dimension"),
    ('{"signature_name": "fixed", "inputs": {"a": [1, 2, 3], "b": [true]}}', "a: expected the shape (2)"),
    ('{"signature_name": "fixed", "inputs": {"a": [1, 2], "b": [1]}}', "b: expected values of type bool"),
]


def test_refusals_name_the_field(server):
    for body, named in REFUSED:
        status, answer = ask(server, body)
        assert (status, list(answer)) == (400, ["error"]), (body[:80], answer)
        assert named in answer["error"], (body[:80], answer)
    for path, expected in (
        ("/v1/models/other:predict", "Servable not found for request: Latest(other)"),
        ("/v1/models/tiny/versions/9:predict", "Servable not found for request: Specific(tiny, 9)"),
    ):
        assert ask(server, '{"instances": [1.0]}', path) == (404, {"error": expected})
    for method, path, expected in (
        ("GET", "/v1/models/tiny:predict", 400),
        ("POST", "/v1/models/tiny", 400),
        ("GET", "/v1/models", 400),
        ("GET", "/v1/models/tiny/labels/stable", 400),
        ("POST", "/v1/models/tiny/versions/99999999999999999999:predict", 400),
        ("POST", "/v1/models/tiny:regress", 501),
        ("GET", "/nothing", 404),
        ("GET", "/v1/models/%2e%2e%2f", 400),
        ("DELETE", "/v1/models/tiny", 400),
    ):
        answer = requests.request(method, server.url + path, timeout=30)
        assert (answer.status_code, list(answer.json())) == (expected, ["error"]), path


def test_one_broken_picture_among_many(server):
    for position in (0, 3, 6):
        pictures = [png(1, 2, 3)] * 7
        pictures[position] = pictures[position][:-20]
        rows = in_base64(*pictures)
        status, answer = ask(
            server, '{"signature_name": "embed_image", "instances": [PICTURES]}'.replace("PICTURES", rows)
        )
        assert status == 400
        assert answer["error"].startswith(f"images[{position}]: ")
        body = '{"signature_name": "score", "inputs": {"images": [PICTURES], "texts": ["a"]}}'.replace("PICTURES", rows)
        assert ask(server, body)[1]["error"].startswith(f"images[{position}]: ")


def test_size_limits_and_token(tiny_base):
    from siglip_tf.serve import Limits

    limits = Limits(body_bytes=10_000, rows=4, pixels=100, queue_rows=4, waiting_bytes=20_000)
    with running({"tiny": tiny_base}, limits=limits, token="secret") as server:
        url, right = f"{server.url}/v1/models/tiny:predict", {"Authorization": "Bearer secret"}

        def post(body, headers=right):
            answer = requests.post(url, data=body, headers=headers, timeout=30)
            return answer.status_code, answer.json().get("error", "")

        assert post('{"instances": [1.0]}')[0] == 200
        assert post(b" " * 10_001)[0] == 413
        assert post(iter([b" " * 6_000, b" " * 6_000]))[0] == 413  # chunked, without a length
        bomb = gzip.compress(b" " * 5_000_000)
        assert post(bomb, right | {"Content-Encoding": "gzip"})[0] == 413
        assert "at most 4 rows" in post('{"instances": [1, 2, 3, 4, 5]}')[1]
        large = in_base64(tf.io.encode_png(np.zeros((11, 10, 3), np.uint8)).numpy())
        status, error = post('{"signature_name": "embed_image", "inputs": [PICTURES]}'.replace("PICTURES", large))
        assert (status, error[:10]) == (400, "images[0]:")
        assert "max_pixels" in error
        body = json.dumps({"signature_name": "embed_image_pixels", "inputs": np.zeros((1, 11, 10, 3), int).tolist()})
        assert "pixels: expected pictures of at most 100" in post(body)[1]
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic secret"}):
            assert post('{"instances": [1.0]}', headers)[0] == 401
            assert requests.get(f"{server.url}/metrics", headers=headers, timeout=30).status_code == 401
        assert requests.get(f"{server.url}/healthz", timeout=30).status_code == 200


@pytest.mark.parametrize("wrong", ["/:x", "", "a b"])
def test_model_names(wrong, tiny_base):
    from siglip_tf.serve import ModelServer

    with pytest.raises(ValueError, match="Expected a model name"):
        ModelServer({wrong: tiny_base})
    with pytest.raises(ValueError, match="name the folder above it"):
        ModelServer({"x": tiny_base / "1"})
    with pytest.raises(ValueError, match="tools.export"):
        ModelServer({"x": tiny_base.parent})
