"""What REST and gRPC share: limits, the choice of the version, the batch, and the count of what was answered."""

import asyncio
import concurrent.futures
import contextlib
import functools
import hmac
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import tensorflow as tf

from siglip_tf.data.images.header import checked
from siglip_tf.data.order.bad_records import first_line
from siglip_tf.op_errors import op_errors
from siglip_tf.serve.batching import Batcher
from siglip_tf.serve.errors import RequestError, invalid, shown
from siglip_tf.serve.metrics import Metrics
from siglip_tf.serve.settings import Settings
from siglip_tf.serve.signature import Arrays, Signature
from siglip_tf.serve.versions import ServedModel, Version

_LOG = logging.getLogger(__name__)
# Smaller bodies are parsed where they are: handing them to a thread costs more.
_SMALL_BODY = 64 * 2**10
# Parsed JSON takes many times the bytes of its text, so few large bodies are parsed at the same time.
_PARSERS = 2


class Frontend:
    """Checks and runs requests of both protocols. Use it from one event loop.

    Args:
        models: by name.
        settings: limits, batching, and the token.

    Attributes:
        metrics: what `/metrics` shows.
        in_flight: requests that are being read or answered.
    """

    def __init__(self, models: Mapping[str, ServedModel], settings: Settings):
        self.models = dict(models)
        self.limits = settings.limits
        self.metrics = Metrics()
        self.in_flight = 0
        self._token = settings.token
        self._waiting_bytes = 0
        self._batcher = Batcher(
            settings.batch_sizes,
            settings.batch_seconds,
            self.limits.queue_rows,
            settings.batch_threads,
            self.metrics.ran,
        )
        self._parsers = concurrent.futures.ThreadPoolExecutor(_PARSERS, thread_name_prefix="parse")
        self.metrics.waiting_rows.set_function(lambda: self._batcher.waiting_rows)
        self.metrics.in_flight.set_function(lambda: self.in_flight)

    @property
    def ready(self) -> bool:
        """Whether every model has a version that is served."""
        return all(model.available for model in self.models.values())

    def close(self) -> None:
        """Ends the threads."""
        self._batcher.close()
        self._parsers.shutdown(wait=False, cancel_futures=True)

    def authorize(self, authorization: str) -> None:
        """Raises an UNAUTHENTICATED error unless the value of the header `Authorization` carries the token."""
        if self._token is None:
            return
        kind, _, token = authorization.partition(" ")
        given = token.strip().encode("utf-8", "surrogateescape")
        if kind.lower() != "bearer" or not hmac.compare_digest(given, self._token.encode()):
            raise RequestError(
                "UNAUTHENTICATED", "Expected the header 'Authorization: Bearer TOKEN' with this server's."
            )

    @contextlib.contextmanager
    def admitted(self, size: int) -> Iterator[None]:
        """Holds room for a request of `size` bytes.

        Raises:
            RequestError: it is too large, or too many bytes are waiting already.
        """
        limits = self.limits
        if size > limits.body_bytes:
            raise RequestError(
                "INVALID_ARGUMENT",
                f"Expected a request of at most {limits.body_bytes:,} bytes. Received: {size:,}.",
                413,
            )
        if self._waiting_bytes + size > limits.waiting_bytes:
            raise RequestError(
                "RESOURCE_EXHAUSTED",
                f"{self._waiting_bytes:,} bytes of other requests are waiting. Try again later.",
            )
        self._waiting_bytes += size
        self.in_flight += 1
        try:
            yield
        finally:
            self._waiting_bytes -= size
            self.in_flight -= 1

    def model(self, name: str) -> ServedModel:
        """The model of that name.

        Raises:
            RequestError: NOT_FOUND.
        """
        if name not in self.models:
            raise RequestError("NOT_FOUND", f"Servable not found for request: Latest({shown(name)})")
        return self.models[name]

    async def predict(
        self, model: str, number: int | None, signature_of: Callable, arrays_of: Callable, size: int, api: str
    ) -> tuple[Version, Signature, Arrays]:
        """Answers one request.

        Args:
            model: name from the request.
            number: version from the request; None for the newest.
            signature_of: returns the signature's name; may parse the request.
            arrays_of: of the `Signature`, returns the request's tensors.
            size: bytes of the request.
            api: "rest" or "grpc", for the metrics.

        Raises:
            RequestError: whatever is wrong.
        """
        started, known, asked, code = time.perf_counter(), "", "", "OK"
        try:
            async with asyncio.timeout(self.limits.seconds):
                served = self.model(model)
                known = served.name
                with served.use(number) as version:
                    name = await self.converted(signature_of, size) or tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY
                    signature = self._signature(version, name, api)
                    asked = signature.name
                    arrays = await self.converted(functools.partial(self._checked, signature, arrays_of), size)
                    return version, signature, await self._batcher.run(signature, arrays)
        except TimeoutError:
            code = "DEADLINE_EXCEEDED"
            raise RequestError(code, f"No answer within {self.limits.seconds:g} s.") from None
        except RequestError as error:
            code = error.code
            raise
        except asyncio.CancelledError:
            code = "CANCELLED"
            raise
        except Exception as error:  # a fault of this program must not end the server, nor be hidden
            code = "INTERNAL"
            _LOG.exception("A request to %s failed.", model)
            raise RequestError(code, "The server failed to answer this request.") from error
        finally:
            self.metrics.answered(api, known, asked, code, time.perf_counter() - started)

    async def converted(self, convert: Callable[[], Any], size: int) -> Any:
        """What `convert` returns, from a thread if `size` bytes would hold up the event loop."""
        if size <= _SMALL_BODY:
            return convert()
        return await asyncio.get_running_loop().run_in_executor(self._parsers, convert)

    @staticmethod
    def _signature(version: Version, name: str, api: str) -> Signature:
        if name not in version.model.signatures:
            known = ", ".join(sorted(version.model.signatures))
            if api == "grpc":
                raise RequestError(
                    "FAILED_PRECONDITION", f'Serving signature key "{shown(name)}" not found. Known: {known}.'
                )
            raise invalid(f'Serving signature name: "{shown(name)}" not found in signature def. Known: {known}.')
        return version.model.signatures[name]

    def _checked(self, signature: Signature, arrays_of: Callable[[Signature], Arrays]) -> Arrays:
        arrays = arrays_of(signature)
        for name, array in arrays.items():
            signature.inputs[name].check(name, array, self.limits.rows)
        if self.limits.pixels is not None:
            self._check_pixels(signature, arrays)
        return arrays

    def _check_pixels(self, signature: Signature, arrays: Arrays) -> None:
        if (pictures := arrays.get("images")) is not None and signature.inputs["images"].dtype == tf.string:
            for i, data in enumerate(pictures.ravel().tolist()):
                try:
                    with op_errors():
                        self._header_check(tf.constant(data))
                except tf.errors.InvalidArgumentError as error:
                    raise invalid(f"images[{i}]: {shown(first_line(error))}") from None
        pixels = arrays.get("pixels")
        if pixels is not None and pixels.ndim == 4 and pixels.shape[1] * pixels.shape[2] > self.limits.pixels:
            raise invalid(
                f"pixels: expected pictures of at most {self.limits.pixels:,} pixels. Received: {pixels.shape}."
            )

    @functools.cached_property
    def _header_check(self) -> Callable:
        """Raises where a picture's header is broken or announces too many pixels, before it waits in the queue."""
        limit = self.limits.pixels
        return tf.function(
            lambda data: checked(data, limit), input_signature=[tf.TensorSpec([], tf.string)], autograph=False
        )
