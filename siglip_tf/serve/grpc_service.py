"""TensorFlow Serving's gRPC services, and gRPC's own health service, on `grpc.aio`."""

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from siglip_tf.serve.errors import RequestError, invalid, shown
from siglip_tf.serve.frontend import Frontend
from siglip_tf.serve.proto_tensors import to_array, to_proto
from siglip_tf.serve.signature import Arrays, Signature
from siglip_tf.serve.status import model_metadata, model_status

_HEALTH = "/grpc.health.v1.Health/"
_OVERHEAD = 64 * 2**10  # bytes of a message beside its tensors


def grpc_server(frontend: Frontend) -> tuple[grpc.aio.Server, health.aio.HealthServicer]:
    """A server without ports, and its health service, which says SERVING of "" and of both services."""
    limits = frontend.limits
    server = grpc.aio.server(
        interceptors=[_Guard(frontend)],
        options=[
            ("grpc.max_receive_message_length", limits.body_bytes + _OVERHEAD),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),  # a second server on the same port must fail, not take half of the requests
        ],
        # Each may hold a message in memory; most of them wait in the queue.
        maximum_concurrent_rpcs=4 * limits.queue_rows,
    )
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(_PredictionService(frontend), server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(_ModelService(frontend), server)
    checks = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    return server, checks


async def report_ready(checks: health.aio.HealthServicer, ready: bool) -> None:
    """Sets what the health service says of the server and of each service."""
    status = health_pb2.HealthCheckResponse.SERVING if ready else health_pb2.HealthCheckResponse.NOT_SERVING
    for service in ("", "tensorflow.serving.PredictionService", "tensorflow.serving.ModelService"):
        await checks.set(service, status)


class _Guard(grpc.aio.ServerInterceptor):
    """Refuses calls without the server's token, health checks excepted, and bytes that are no message."""

    def __init__(self, frontend: Frontend):
        self._frontend = frontend

    async def intercept_service(self, continuation: Callable, details: grpc.HandlerCallDetails) -> Any:
        handler = await continuation(details)
        if handler is None:
            return None
        handler = _readable(handler)
        if details.method.startswith(_HEALTH):
            return handler
        given = next((value for key, value in details.invocation_metadata or () if key == "authorization"), "")
        try:
            self._frontend.authorize(given if isinstance(given, str) else given.decode("latin-1"))
        except RequestError as error:
            return _refusing(error)
        return handler


def _readable(handler: grpc.RpcMethodHandler) -> grpc.RpcMethodHandler:
    """A handler that says INVALID_ARGUMENT to bytes that are no message; gRPC would say UNKNOWN and log each."""
    if handler.unary_unary is None or handler.request_deserializer is None:
        return handler

    def read(data: bytes) -> Any:
        try:
            return handler.request_deserializer(data)
        except DecodeError as error:
            return invalid(f"The request cannot be read: {shown(str(error))}")

    async def answer(request: Any, context: grpc.aio.ServicerContext) -> Any:
        if isinstance(request, RequestError):
            return await _abort(context, request)
        return await handler.unary_unary(request, context)

    return grpc.unary_unary_rpc_method_handler(answer, read, handler.response_serializer)


def _refusing(error: RequestError) -> grpc.RpcMethodHandler:
    async def refuse(request: Any, context: grpc.aio.ServicerContext) -> None:
        await _abort(context, error)

    return grpc.unary_unary_rpc_method_handler(refuse)


async def _abort(context: grpc.aio.ServicerContext, error: RequestError) -> None:
    await context.abort(getattr(grpc.StatusCode, error.code), error.message)


async def _answer(context: grpc.aio.ServicerContext, work: Awaitable) -> Any:
    try:
        return await work
    except RequestError as error:
        refused = error
    return await _abort(context, refused)


class _PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, frontend: Frontend):
        self._frontend = frontend

    async def Predict(self, request, context):
        return await _answer(context, self._predict(request))

    async def GetModelMetadata(self, request, context):
        return await _answer(context, self._metadata(request))

    async def Classify(self, request, context):
        await _abort(context, _examples())

    async def Regress(self, request, context):
        await _abort(context, _examples())

    async def MultiInference(self, request, context):
        await _abort(context, _examples())

    async def _predict(self, request: predict_pb2.PredictRequest) -> predict_pb2.PredictResponse:
        frontend, spec = self._frontend, request.model_spec
        number = _version(spec)
        size = request.ByteSize()

        def arrays(signature: Signature) -> Arrays:
            _check_names(signature, request)
            return {
                name: to_array(name, request.inputs[name], info, frontend.limits.body_bytes)
                for name, info in signature.inputs.items()
            }

        with frontend.admitted(size):
            version, signature, outputs = await frontend.predict(
                spec.name, number, lambda: spec.signature_name, arrays, size, "grpc"
            )
        response = predict_pb2.PredictResponse()
        response.model_spec.name = spec.name
        response.model_spec.version.value = version.number
        response.model_spec.signature_name = signature.name
        for name in request.output_filter or outputs:
            response.outputs[name].CopyFrom(to_proto(outputs[name]))
        return response

    async def _metadata(self, request: get_model_metadata_pb2.GetModelMetadataRequest):
        if not request.metadata_field:
            raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != "signature_def":
                raise invalid(f"Metadata field {shown(field)} is not supported")
        number = _version(request.model_spec)
        return model_metadata(self._frontend.model(request.model_spec.name), number)


class _ModelService(model_service_pb2_grpc.ModelServiceServicer):
    def __init__(self, frontend: Frontend):
        self._frontend = frontend

    async def GetModelStatus(self, request, context):
        return await _answer(context, self._status(request))

    async def HandleReloadConfigRequest(self, request, context):
        reason = "The models of this server are those of its command line; it finds new versions by itself."
        await _abort(context, RequestError("UNIMPLEMENTED", reason))

    async def _status(self, request: get_model_status_pb2.GetModelStatusRequest):
        number = _version(request.model_spec)
        return model_status(self._frontend.model(request.model_spec.name), number)


def _version(spec: Any) -> int | None:
    if not spec.name:
        raise invalid("Missing ModelSpec: expected model_spec.name.")
    if spec.WhichOneof("version_choice") == "version_label":
        label = shown(spec.version_label)
        raise invalid(f"Unrecognized servable version label: {label}. Ask with model_spec.version.")
    return spec.version.value if spec.HasField("version") else None


def _check_names(signature: Signature, request: predict_pb2.PredictRequest) -> None:
    extra = sorted(set(request.inputs) - set(signature.inputs))
    missing = sorted(set(signature.inputs) - set(request.inputs))
    if extra or missing:
        raise invalid(
            f"inputs: expected {', '.join(sorted(signature.inputs))}. "
            f"Sent extra: {shown(', '.join(extra) or 'none')}. Missing but required: {', '.join(missing) or 'none'}."
        )
    wanted = list(request.output_filter)
    for name in wanted:
        if name not in signature.outputs:
            raise invalid(
                f"output_filter: output tensor alias not found in signature: {shown(name)}. "
                f"Outputs: {', '.join(sorted(signature.outputs))}."
            )
    if len(set(wanted)) < len(wanted):
        raise invalid("output_filter: duplicate output tensor alias.")


def _examples() -> RequestError:
    return RequestError("UNIMPLEMENTED", "This server answers Predict; its models have no Example signatures.")
