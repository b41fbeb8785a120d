"""The files of docs/serving parse, and their parts agree with each other and with an export."""

import itertools
import pathlib

import yaml
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2

from siglip_tf.serve import Settings

FOLDER = pathlib.Path(__file__).parents[2] / "docs" / "serving"


# Files of TensorFlow Serving that the wheel of its API leaves out, as far as they are used here.
# Source: servables/tensorflow/session_bundle_config.proto, config/monitoring_config.proto.
_INT64, _BOOL, _STRING, _MESSAGE = 3, 8, 9, 11
_MESSAGES = {
    "BatchingParameters": [
        ("max_batch_size", 1, _MESSAGE, ".google.protobuf.Int64Value"),
        ("batch_timeout_micros", 2, _MESSAGE, ".google.protobuf.Int64Value"),
        ("max_enqueued_batches", 3, _MESSAGE, ".google.protobuf.Int64Value"),
        ("num_batch_threads", 4, _MESSAGE, ".google.protobuf.Int64Value"),
        ("thread_pool_name", 5, _MESSAGE, ".google.protobuf.StringValue"),
        ("allowed_batch_sizes", 6, _INT64, ""),
        ("pad_variable_length_inputs", 7, _BOOL, ""),
    ],
    "PrometheusConfig": [("enable", 1, _BOOL, ""), ("path", 2, _STRING, "")],
    "MonitoringConfig": [("prometheus_config", 1, _MESSAGE, ".tensorflow.serving.PrometheusConfig")],
}


def parsed(name, file):
    proto = descriptor_pb2.FileDescriptorProto(name="config.proto", package="tensorflow.serving", syntax="proto3")
    proto.dependency.append(wrappers_pb2.DESCRIPTOR.name)
    for message, fields in _MESSAGES.items():
        made = proto.message_type.add(name=message)
        for field, number, kind, of in fields:
            label = 3 if field == "allowed_batch_sizes" else 1
            made.field.add(name=field, number=number, label=label, type=kind, type_name=of or None)
    wrappers = descriptor_pb2.FileDescriptorProto()
    wrappers_pb2.DESCRIPTOR.CopyToProto(wrappers)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(wrappers)
    pool.Add(proto)
    kind = message_factory.GetMessageClass(pool.FindMessageTypeByName(f"tensorflow.serving.{name}"))
    return text_format.Parse((FOLDER / file).read_text(), kind())


def test_batching_parameters():
    found = parsed("BatchingParameters", "batching_parameters.txt")
    sizes = list(found.allowed_batch_sizes)
    # What the server requires of them.
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == found.max_batch_size.value
    assert found.num_batch_threads.value >= 1
    assert 0 < found.batch_timeout_micros.value <= 10_000
    # As the comment says, and as this package's own server pads: at most a third is padding.
    for allowed in (sizes, Settings().batch_sizes):
        worst = max((size - smaller - 1) / size for smaller, size in itertools.pairwise(allowed))
        assert worst < 1 / 3


def flags(arguments):
    return dict(argument.removeprefix("--").split("=", 1) for argument in arguments)


def test_compose_and_kubernetes():
    services = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]
    assert flags(services["embed"]["entrypoint"][1:])["enable_batching"] == "true"
    assert "enable_batching" not in flags(services["score"]["entrypoint"][1:])
    deployment, service, _ = yaml.safe_load_all((FOLDER / "kubernetes.yaml").read_text())
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    for given in (flags(services["embed"]["entrypoint"][1:]), flags(container["args"])):
        for name in ("batching_parameters_file", "monitoring_config_file"):
            folder, _, file = given[name].rpartition("/")
            assert folder in mounted
            assert (FOLDER / file).exists()
        assert given["model_base_path"] == f"/models/{given['model_name']}"
        assert container["readinessProbe"]["httpGet"]["path"] == f"/v1/models/{given['model_name']}"
    assert {port["name"] for port in container["ports"]} == {port["targetPort"] for port in service["spec"]["ports"]}
    for volumes in (services["embed"]["volumes"], services["score"]["volumes"]):
        targets = {volume.split(":")[1] for volume in volumes}
        assert {"/models/siglip", "/config/batching_parameters.txt", "/config/monitoring.config"} == targets
    prometheus = parsed("MonitoringConfig", "monitoring.config").prometheus_config
    annotations = deployment["spec"]["template"]["metadata"]["annotations"]
    assert (prometheus.enable, prometheus.path) == (True, annotations["prometheus.io/path"])
