"""TensorFlow Serving's RESTful API, health checks and metrics, on aiohttp."""

import asyncio
import functools
import json
import logging
import re
from collections.abc import Callable

from aiohttp import web

from siglip_tf.serve.errors import RequestError, invalid, shown
from siglip_tf.serve.frontend import Frontend
from siglip_tf.serve.json_tensors import PredictBody, error_json, parse_predict, to_arrays, to_json
from siglip_tf.serve.status import message_json, metadata_json, model_metadata, model_status

_LOG = logging.getLogger(__name__)
_MODEL = r"/v1/models/(?P<name>[^/:]+)(?:/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?"
_PREDICT = re.compile(rf"{_MODEL}:(?P<method>predict|classify|regress)", re.IGNORECASE)
_METADATA = re.compile(rf"{_MODEL}/metadata", re.IGNORECASE)
_STATUS = re.compile(_MODEL, re.IGNORECASE)
_LARGEST_VERSION = 2**63 - 1
_BYTES_OF_A_NUMBER = 20  # in JSON
METRICS_PATHS = ("/metrics", "/monitoring/prometheus/metrics")


def rest_application(frontend: Frontend, draining: Callable[[], bool]) -> web.Application:
    """The routes of a server.

    Args:
        frontend: what answers predictions.
        draining: whether the server is stopping. Connections then close after their answer.
    """
    handlers = _Handlers(frontend, draining)
    # The frontend refuses what is larger; aiohttp's own limit holds for bodies that do not say their size.
    app = web.Application(middlewares=[handlers.guard], client_max_size=frontend.limits.body_bytes)
    app.router.add_get("/healthz", handlers.healthz)
    app.router.add_get("/readyz", handlers.readyz)
    for path in METRICS_PATHS:
        app.router.add_get(path, handlers.metrics)
    app.router.add_route("*", "/{path:.*}", handlers.api)
    return app


class _Handlers:
    def __init__(self, frontend: Frontend, draining: Callable[[], bool]):
        self._frontend = frontend
        self._draining = draining

    @web.middleware
    async def guard(self, request: web.Request, handler: Callable) -> web.StreamResponse:
        """Checks the token, and turns every error into TensorFlow Serving's JSON."""
        try:
            if request.path not in ("/healthz", "/readyz"):
                self._frontend.authorize(request.headers.get("Authorization", ""))
            response = await handler(request)
        except RequestError as error:
            response = _refusal(error)
        except web.HTTPRequestEntityTooLarge:
            most = self._frontend.limits.body_bytes
            response = _refusal(RequestError("INVALID_ARGUMENT", f"Expected at most {most:,} bytes.", 413))
        except web.HTTPException as error:
            response = _refusal(RequestError("INVALID_ARGUMENT", error.reason, error.status))
        except (ConnectionError, asyncio.IncompleteReadError) as error:
            response = _refusal(invalid(f"The request broke off: {shown(str(error))}"))
        if self._draining() or (request.can_read_body and not request.content.at_eof()):
            response.force_close()  # what is left of a refused body must not be read as a request
        return response

    async def healthz(self, request: web.Request) -> web.Response:
        """200 as long as the process answers."""
        return web.json_response({"status": "alive"})

    async def readyz(self, request: web.Request) -> web.Response:
        """200 if every model has a version that is served and the server is not stopping."""
        ready = self._frontend.ready and not self._draining()
        return web.json_response({"ready": ready}, status=200 if ready else 503)

    async def metrics(self, request: web.Request) -> web.Response:
        """Prometheus' text format."""
        return web.Response(
            body=self._frontend.metrics.text(), headers={"Content-Type": self._frontend.metrics.content_type}
        )

    async def api(self, request: web.Request) -> web.Response:
        """Everything below /v1."""
        if not request.path.lower().startswith("/v1/"):
            raise RequestError("NOT_FOUND", f"There is nothing at {shown(request.path)}.")
        if request.method == "POST" and (found := _PREDICT.fullmatch(request.path)):
            return await self._predict(request, found)
        if request.method == "GET" and (found := _METADATA.fullmatch(request.path)):
            model = self._frontend.model(found["name"])
            return _json(metadata_json(model_metadata(model, _version(found))))
        if request.method == "GET" and (found := _STATUS.fullmatch(request.path)):
            model = self._frontend.model(found["name"])
            return _json(message_json(model_status(model, _version(found))))
        raise invalid(f"Malformed request: {request.method} {shown(request.path)}")

    async def _predict(self, request: web.Request, found: re.Match) -> web.Response:
        number = _version(found)
        if found["method"].lower() != "predict":
            raise RequestError("UNIMPLEMENTED", "This server answers :predict; its models have no Example signatures.")
        frontend, limits = self._frontend, self._frontend.limits
        # A body that does not say its size may be as large as any.
        announced = request.content_length if request.content_length is not None else limits.body_bytes
        with frontend.admitted(announced):
            try:
                async with asyncio.timeout(limits.seconds):
                    content = await request.read()
            except TimeoutError:
                raise RequestError("DEADLINE_EXCEEDED", "The body did not arrive in time.", 408) from None
            parsed: list[PredictBody] = []

            def signature_name() -> str:
                parsed.append(parse_predict(content))
                return parsed[0].signature_name

            _, _, outputs = await frontend.predict(
                found["name"],
                number,
                signature_name,
                lambda signature: to_arrays(parsed[0], signature.inputs),
                len(content),
                "rest",
            )
            size = _BYTES_OF_A_NUMBER * sum(array.size for array in outputs.values())
            body = await frontend.converted(functools.partial(to_json, outputs, parsed[0].as_rows), size)
            return web.Response(body=body, content_type="application/json")


def _version(found: re.Match) -> int | None:
    if found["label"] is not None:
        raise invalid(f"Unrecognized servable version label: {shown(found['label'])}. Ask with /versions/N.")
    if found["version"] is None:
        return None
    if len(found["version"]) > 19 or int(found["version"]) > _LARGEST_VERSION:
        raise invalid(f"Failed to convert version: {shown(found['version'])} to numeric.")
    return int(found["version"])


def _json(value: dict) -> web.Response:
    return web.Response(body=json.dumps(value, indent=1).encode(), content_type="application/json")


def _refusal(error: RequestError) -> web.Response:
    headers = {}
    if error.http_status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if error.code in ("RESOURCE_EXHAUSTED", "UNAVAILABLE"):
        headers["Retry-After"] = "1"
    return web.Response(
        body=error_json(error), status=error.http_status, content_type="application/json", headers=headers
    )
