"""GetModelStatus and GetModelMetadata, as both protocols answer them: TensorFlow Serving's own messages."""

from google.protobuf import json_format
from google.protobuf.message import Message
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2

from siglip_tf.serve.errors import RequestError
from siglip_tf.serve.versions import ServedModel

_FAILED = 13  # google.rpc code INTERNAL, which is tensorflow's error.Code.INTERNAL too


def model_status(model: ServedModel, number: int | None) -> get_model_status_pb2.GetModelStatusResponse:
    """The states of all versions, or of one.

    Raises:
        RequestError: NOT_FOUND, no such version was ever there.
    """
    versions = [v for v in sorted(model.versions.values(), key=lambda v: -v.number) if number in (None, v.number)]
    if not versions:
        what = f"{model.name}" if number is None else f"{model.name} with version {number}"
        raise RequestError("NOT_FOUND", f"Could not find any versions of model {what}")
    response = get_model_status_pb2.GetModelStatusResponse()
    for version in versions:
        status = response.model_version_status.add()
        status.version = version.number
        status.state = get_model_status_pb2.ModelVersionStatus.State.Value(version.state)
        status.status.error_code = _FAILED if version.error else 0
        status.status.error_message = version.error
    return response


def model_metadata(model: ServedModel, number: int | None) -> get_model_metadata_pb2.GetModelMetadataResponse:
    """The signatures of a version.

    Raises:
        RequestError: NOT_FOUND, that version is not served.
    """
    with model.use(number) as version:
        signatures = get_model_metadata_pb2.SignatureDefMap()
        for name, definition in version.model.definitions.items():
            signatures.signature_def[name].CopyFrom(definition)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.model_spec.name = model.name
        response.model_spec.version.value = version.number
        response.metadata["signature_def"].Pack(signatures)
        return response


def metadata_json(response: get_model_metadata_pb2.GetModelMetadataResponse) -> dict:
    """A metadata answer as TensorFlow Serving's REST writes it: the packed signatures stand unpacked."""
    signatures = get_model_metadata_pb2.SignatureDefMap()
    response.metadata["signature_def"].Unpack(signatures)
    spec = {
        "name": response.model_spec.name,
        "signature_name": "",
        "version": str(response.model_spec.version.value),
    }
    return {"model_spec": spec, "metadata": {"signature_def": message_json(signatures)}}


def message_json(message: Message) -> dict:
    """A message as TensorFlow Serving's REST writes it: names as in the proto file, no field left out."""
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
