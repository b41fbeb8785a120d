"""The stubs of `tensorflow-serving-api`, as TensorFlow Serving's clients use them."""

import grpc
import numpy as np
import pytest
import requests
import tensorflow as tf
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from siglip_tf.serve import Limits
from tests.serve.tiny_model import running


@pytest.fixture(scope="module")
def channel(server):
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        yield channel


@pytest.fixture(scope="module")
def stub(channel):
    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


def request_of(signature="", model="tiny", **inputs):
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = model, signature
    for name, value in inputs.items():
        proto = value if isinstance(value, tensor_pb2.TensorProto) else tf.make_tensor_proto(value)
        request.inputs[name].CopyFrom(proto)
    return request


def refusal(call, request):
    with pytest.raises(grpc.RpcError) as caught:
        call(request, timeout=30)
    return caught.value.code().name, caught.value.details()


def test_predict(stub):
    response = stub.Predict(request_of(x=np.array([1, 2, 5], np.float32)), timeout=30)
    assert list(response.outputs["y"].float_val) == [2.5, 3.0, 4.5]  # where clients without TensorFlow look
    assert [dim.size for dim in response.outputs["y"].tensor_shape.dim] == [3]
    spec = response.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("tiny", 1, "serving_default")

    picture = tf.io.encode_png(np.full((3, 2, 3), 7, np.uint8)).numpy()
    response = stub.Predict(request_of("score", images=[picture, picture], texts=["a", "bb"]), timeout=30)
    np.testing.assert_array_equal(tf.make_ndarray(response.outputs["logits"]), [[22, 23], [22, 23]])
    response = stub.Predict(request_of("embed_text", texts=["é", "b"]), timeout=30)
    assert list(response.outputs["upper"].string_val) == ["é".encode(), b"B"]
    assert tf.make_ndarray(response.outputs["length"]).tolist() == [2, 1]
    pixels = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
    response = stub.Predict(request_of("embed_image_pixels", pixels=pixels), timeout=30)
    np.testing.assert_array_equal(tf.make_ndarray(response.outputs["embedding"]), [[4.5, 5.5, 6.5]])

    request = request_of("embed_text", texts=["a"])
    request.output_filter.append("length")
    request.model_spec.version.value = 1
    assert list(stub.Predict(request, timeout=30).outputs) == ["length"]
    # One value that stands for all, as TensorFlow compresses constants.
    constant = tensor_pb2.TensorProto(dtype=1, float_val=[4.0])
    constant.tensor_shape.dim.add().size = 3
    response = stub.Predict(request_of(x=constant), timeout=30)
    assert tf.make_ndarray(response.outputs["y"]).tolist() == [4.0, 4.0, 4.0]


def proto(dtype, dims, **values):
    made = tensor_pb2.TensorProto(dtype=dtype, **values)
    for size in dims:
        made.tensor_shape.dim.add().size = size
    return made


def test_refusals_name_the_field(stub):
    unknown = proto(1, [])
    unknown.tensor_shape.unknown_rank = True
    picture = tf.io.encode_png(np.zeros((3, 2, 3), np.uint8)).numpy()
    cases = [
        (request_of(x=np.array([1, 2])), "INVALID_ARGUMENT", "x: expected the type DT_FLOAT. Received: DT_INT64"),
        (request_of(x=np.float32(1)), "INVALID_ARGUMENT", "x: expected the shape (any)"),
        (request_of(), "INVALID_ARGUMENT", "Missing but required: x"),
        (request_of(x=[1.0], y=[1.0]), "INVALID_ARGUMENT", "Sent extra: y"),
        (request_of("nope", x=[1.0]), "FAILED_PRECONDITION", 'Serving signature key "nope" not found'),
        (request_of(model="other", x=[1.0]), "NOT_FOUND", "Servable not found for request: Latest(other)"),
        (request_of(model="", x=[1.0]), "INVALID_ARGUMENT", "Missing ModelSpec"),
        (request_of(x=proto(1, [2**40], float_val=[1])), "INVALID_ARGUMENT", "x: the shape [1099511627776] announces"),
        (request_of(x=proto(1, [2**62, 2**62], float_val=[1])), "INVALID_ARGUMENT", "x: the shape"),
        (request_of(x=proto(1, [-1], float_val=[1])), "INVALID_ARGUMENT", "x: expected a known shape"),
        (request_of(x=unknown), "INVALID_ARGUMENT", "x: expected a known shape"),
        (request_of(x=proto(1, [3], float_val=[1, 2])), "INVALID_ARGUMENT", "x: the shape [3] has 3 values"),
        (request_of(x=proto(1, [3])), "INVALID_ARGUMENT", "x: the shape [3] has 3 values"),
        (request_of(x=proto(1, [3], tensor_content=b"12345")), "INVALID_ARGUMENT", "x: the shape [3] has 3 values"),
        (request_of(x=proto(99, [1])), "INVALID_ARGUMENT", "x: expected the type DT_FLOAT. Received: 99"),
        (request_of("embed_text", texts=proto(7, [2], string_val=[b"a"])), "INVALID_ARGUMENT", "texts: expected 2 v"),
        (request_of("embed_text", texts=proto(7, [2**50])), "INVALID_ARGUMENT", "texts: expected 1,125,899"),
        (request_of("embed_text", texts=proto(7, [1], tensor_content=b"a")), "INVALID_ARGUMENT", "texts: expected"),
        (request_of("embed_image", images=[picture, b"x"]), "INVALID_ARGUMENT", "images[1]: "),
        (request_of("score", images=[picture], texts=["bad"]), "INVALID_ARGUMENT", "texts: This text is bad."),
        (request_of(x=np.zeros(300, np.float32)), "INVALID_ARGUMENT", "x: expected at most 256 rows"),
    ]
    labelled = request_of(x=[1.0])
    labelled.model_spec.version_label = "stable"
    cases.append((labelled, "INVALID_ARGUMENT", "Unrecognized servable version label: stable"))
    for value, expected in (("nope", "alias not found"), ("y", "duplicate")):
        filtered = request_of(x=[1.0])
        filtered.output_filter.extend([value, value])
        cases.append((filtered, "INVALID_ARGUMENT", expected))
    for request, code, named in cases:
        found, details = refusal(stub.Predict, request)
        assert (found, named in details) == (code, True), (named, details)


def test_bytes_that_are_no_message(channel):
    right = request_of(x=[1.0]).SerializeToString()
    for method in ("PredictionService/Predict", "ModelService/GetModelStatus"):
        call = channel.unary_unary(f"/tensorflow.serving.{method}")
        for data in (b"\xff\xff\xff", b"\x0a\x7f", right[:-3], right.replace(b"tiny", b"t\xffny")):
            code, details = refusal(call, data)
            assert code == "INVALID_ARGUMENT"
            assert details.startswith(
                "The request cannot be read: Error parsing message with type 'tensorflow.serving."
            )
        assert refusal(call, b"")[0] == "INVALID_ARGUMENT"  # a message without a name


def test_other_methods(channel, stub):
    model_service = model_service_pb2_grpc.ModelServiceStub(channel)
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "tiny"
    (status,) = model_service.GetModelStatus(request, timeout=30).model_version_status
    assert (status.version, status.state, status.status.error_code) == (1, status.AVAILABLE, 0)
    request.model_spec.name = "other"
    assert refusal(model_service.GetModelStatus, request)[0] == "NOT_FOUND"

    request = get_model_metadata_pb2.GetModelMetadataRequest()
    request.model_spec.name = "tiny"
    assert refusal(stub.GetModelMetadata, request)[0] == "INVALID_ARGUMENT"
    request.metadata_field.append("signature_def")
    response = stub.GetModelMetadata(request, timeout=30)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    assert signatures.signature_def["score"].inputs["images"].dtype == tf.string.as_datatype_enum
    request.metadata_field.append("else")
    assert refusal(stub.GetModelMetadata, request)[0] == "INVALID_ARGUMENT"
    reload = model_management_pb2.ReloadConfigRequest()
    assert refusal(model_service.HandleReloadConfigRequest, reload)[0] == "UNIMPLEMENTED"

    health = health_pb2_grpc.HealthStub(channel)
    for service in ("", "tensorflow.serving.PredictionService"):
        answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=30)
        assert answer.status == answer.SERVING


def test_token_size_and_tls(tiny_base, tmp_path):
    certificate, key = write_certificate(tmp_path)
    options = {"token": "secret", "tls_certificate": str(certificate), "tls_key": str(key)}
    limits = Limits(body_bytes=200_000, waiting_bytes=200_000)
    with running({"tiny": tiny_base}, limits=limits, **options) as server:
        credentials = grpc.ssl_channel_credentials(certificate.read_bytes())
        with grpc.secure_channel(f"localhost:{server.grpc_port}", credentials) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            request = request_of(x=[1.0])
            assert refusal(stub.Predict, request)[0] == "UNAUTHENTICATED"
            right = [("authorization", "Bearer secret")]
            assert stub.Predict(request, timeout=30, metadata=right).outputs["y"].float_val == [2.5]
            with pytest.raises(grpc.RpcError, match="RESOURCE_EXHAUSTED"):
                stub.Predict(request_of("embed_text", texts=["a" * 300_000]), timeout=30, metadata=right)
            health = health_pb2_grpc.HealthStub(channel)
            assert health.Check(health_pb2.HealthCheckRequest(), timeout=30).status == 1
        answer = requests.post(
            f"https://localhost:{server.rest_port}/v1/models/tiny:predict",
            data='{"instances": [1.0]}',
            headers={"Authorization": "Bearer secret"},
            verify=str(certificate),
            timeout=30,
        )
        assert answer.json() == {"predictions": [2.5]}


def write_certificate(folder):
    """A certificate for localhost, by the openssl program."""
    import subprocess

    certificate, key = folder / "certificate.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(key), "-out", str(certificate), "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key
