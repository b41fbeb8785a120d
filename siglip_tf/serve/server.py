"""A server in one process: it loads models, listens on two ports, reloads, and stops without losing a request."""

import asyncio
import contextlib
import logging
import os
import ssl
from collections.abc import Mapping

import tensorflow as tf

from siglip_tf.export.version_folder import version_numbers
from siglip_tf.serve.settings import Settings
from siglip_tf.serve.versions import ServedModel, watched

_LOG = logging.getLogger(__name__)
_PACKAGES = "aiohttp, grpcio, grpcio-health-checking, tensorflow-serving-api, prometheus_client"


class ModelServer:
    """Serves SavedModels over TensorFlow Serving's REST and gRPC.

    Args:
        models: name -> base path with numbered version folders, as `tools.export` writes them.
        settings: ports, batching, and limits.

    Attributes:
        rest_port: the port of HTTP, once the server runs.
        grpc_port: the port of gRPC, once the server runs.

    Example:

        server = ModelServer({"siglip": "served/siglip"})
        stop = asyncio.Event()
        await server.run(stop)  # until somebody sets `stop`

    Raises:
        ValueError: no models, a name that no address can hold, or a folder without versions.
    """

    def __init__(self, models: Mapping[str, str], settings: Settings | None = None):
        self.settings = settings or Settings()
        _check(models)
        self.models = {
            name: ServedModel(name, os.fspath(base), self.settings.keep_versions) for name, base in models.items()
        }
        self.rest_port = self.grpc_port = 0
        self._draining = False

    async def run(self, stop: asyncio.Event, started: asyncio.Event | None = None) -> int:
        """Serves until `stop` is set, then answers what is in flight; returns how many requests got no answer.

        Args:
            stop: ends the server.
            started: set once both ports answer.

        Raises:
            ValueError: a model has no version that loads, or the certificate cannot be read.
            OSError: a port cannot be had.
        """
        try:
            from aiohttp import web

            from siglip_tf.serve.frontend import Frontend
            from siglip_tf.serve.grpc_service import grpc_server, report_ready
            from siglip_tf.serve.rest import rest_application
        except ImportError as error:
            raise ValueError(
                f"The server needs {_PACKAGES}: pip install 'siglip-tf[serve]'. Missing: {error.name}."
            ) from error
        settings = self.settings
        tls = _tls_context(settings)
        models = list(self.models.values())
        async with contextlib.AsyncExitStack() as stack:
            for model in models:
                stack.push_async_callback(model.close)
            await self._first_load()
            frontend = Frontend(self.models, settings)
            stack.callback(frontend.close)
            frontend.metrics.loaded(models)

            runner = web.AppRunner(
                rest_application(frontend, lambda: self._draining),
                handler_cancellation=True,  # work for a client that has gone is dropped
                access_log=None,
                shutdown_timeout=1.0,
            )
            await runner.setup()
            stack.push_async_callback(_close, runner)
            site = web.TCPSite(runner, settings.host, settings.rest_port, ssl_context=tls, backlog=1024)
            await site.start()
            self.rest_port = runner.addresses[0][1]

            rpc, health = grpc_server(frontend)
            self.grpc_port = _bind(rpc, settings)
            await rpc.start()
            stack.push_async_callback(rpc.stop, 0)
            await report_ready(health, True)

            def looked() -> None:
                frontend.metrics.loaded(models)

            async with watched(models, settings.poll_seconds, looked):
                if started is not None:
                    started.set()
                await stop.wait()
            self._draining = True
            await report_ready(health, False)
            await site.stop()  # no new connections; those that are open close after their answer
            stopped = asyncio.create_task(rpc.stop(settings.drain_seconds))
            await self._drained(frontend)
            await stopped
            return frontend.in_flight

    async def _first_load(self) -> None:
        for model in self.models.values():
            await model.poll()
            # A folder that no export of this package wrote counts as whole when two looks agree.
            for _ in range(2):
                if not model.available and not any(version.error for version in model.versions.values()):
                    await asyncio.sleep(min(self.settings.poll_seconds, 1.0))
                    await model.poll()
            if not model.available:
                errors = [f"version {v.number}: {v.error}" for v in model.versions.values() if v.error]
                why = "; ".join(errors) or "files are missing, as if a copy were not finished"
                raise ValueError(f"{model.base} has no version that can be served: {why}.")

    async def _drained(self, frontend) -> None:
        deadline = asyncio.get_running_loop().time() + self.settings.drain_seconds
        while frontend.in_flight and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.02)
        if frontend.in_flight:
            _LOG.warning("%d requests did not end within %g s.", frontend.in_flight, self.settings.drain_seconds)


def _check(models: Mapping[str, str]) -> None:
    if not models:
        raise ValueError("Expected at least one model. Received: none.")
    for name, base in models.items():
        if not name or any(character in "/:?#%" or character.isspace() for character in name):
            raise ValueError(f"Expected a model name that an address can hold. Received: {name!r}. Use NAME=PATH.")
        base = os.fspath(base)
        if not version_numbers(base):
            hint = ""
            if tf.io.gfile.exists(f"{base.rstrip('/')}/saved_model.pb"):
                hint = " This is a version itself: name the folder above it."
            elif tf.io.gfile.exists(base):
                hint = f" Export a checkpoint first: python -m tools.export {base} served/{name}"
            raise ValueError(f"Expected {base} to hold folders like 1/ with a saved_model.pb.{hint}")


async def _close(runner) -> None:
    """Ends all connections. A TLS connection waits for its client to say goodbye, and a client may never do so."""
    transports = [connection.transport for connection in runner.server.connections]
    await runner.cleanup()
    await asyncio.sleep(0.1)
    for transport in transports:
        if transport is not None:
            transport.abort()
    await asyncio.sleep(0)


def _tls_context(settings: Settings) -> ssl.SSLContext | None:
    if settings.tls_certificate is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(settings.tls_certificate, settings.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise ValueError(
            f"Cannot read the certificate {settings.tls_certificate} with the key {settings.tls_key}: {error}"
        ) from error
    return context


def _bind(server, settings: Settings) -> int:
    import grpc

    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    address = f"{host}:{settings.grpc_port}"
    try:
        if settings.tls_certificate is None:
            port = server.add_insecure_port(address)
        else:
            with open(settings.tls_key, "rb") as key, open(settings.tls_certificate, "rb") as certificate:
                pair = key.read(), certificate.read()
            port = server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
    except RuntimeError as error:
        raise OSError(f"Cannot listen for gRPC on {address}: {error}") from error
    if not port:
        raise OSError(f"Cannot listen for gRPC on {address}: the address is in use or not this machine's.")
    return port
