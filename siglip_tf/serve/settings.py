"""What an operator may set, with the reason for each default."""

import dataclasses
import math

# Batches are padded to one of these sizes: at most a third of a batch is padding, and a process sees few shapes.
BATCH_SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a client may ask for. Whatever is beyond gets an error before the model is asked.

    Attributes:
        body_bytes: the largest request. A picture of 12 megapixels is about 5 MB, and base64 adds a third.
        rows: the largest first dimension of an input, such as pictures or labels of one request.
        pixels: the largest picture, by its header; None for the limit that the export has in its graph.
        queue_rows: rows that may wait for the model. Beyond it, requests get 429 or RESOURCE_EXHAUSTED at once.
        waiting_bytes: bytes of all requests that are being read or answered.
        seconds: how long a request may take until it gets 504 or DEADLINE_EXCEEDED.
    """

    body_bytes: int = 32 * 2**20
    rows: int = 256
    pixels: int | None = None
    queue_rows: int = 1024
    waiting_bytes: int = 512 * 2**20
    seconds: float = 60.0

    def __post_init__(self):
        for name, value in dataclasses.asdict(self).items():
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ValueError(f"Expected the limit {name} to be above 0. Received: {value}.")
        if self.queue_rows < self.rows:
            raise ValueError(
                f"Expected a queue of at least {self.rows} rows, the largest request. Received: {self.queue_rows}."
            )
        if self.waiting_bytes < self.body_bytes:
            raise ValueError(
                f"Expected waiting_bytes of at least {self.body_bytes:,}, the largest request. "
                f"Received: {self.waiting_bytes:,}."
            )


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a server runs.

    Attributes:
        host: address to listen on; this machine only by default.
        rest_port: for HTTP; 0 for any free one.
        grpc_port: for gRPC; 0 for any free one.
        batch_sizes: sizes that batches are padded to, ascending; the last one is the largest batch.
        batch_seconds: how long an idle thread waits for a batch to fill. Zero is right for most: while a batch runs,
            the next one gathers by itself.
        batch_threads: batches that run at the same time. With two, one batch decodes while the other computes.
        keep_versions: how many of the newest versions are served; None for all.
        poll_seconds: how often the folders are looked at.
        drain_seconds: how long a stopping server waits for requests in flight.
        tls_certificate: PEM file; with `tls_key`, both ports speak TLS.
        tls_key: PEM file of the certificate's key.
        token: if given, requests need `Authorization: Bearer TOKEN`; health checks do not.
        limits: what a client may ask for.
    """

    host: str = "127.0.0.1"
    rest_port: int = 8501
    grpc_port: int = 8500
    batch_sizes: tuple[int, ...] = BATCH_SIZES
    batch_seconds: float = 0.0
    batch_threads: int = 2
    keep_versions: int | None = 1
    poll_seconds: float = 1.0
    drain_seconds: float = 30.0
    tls_certificate: str | None = None
    tls_key: str | None = None
    token: str | None = None
    limits: Limits = dataclasses.field(default_factory=Limits)

    def __post_init__(self):
        sizes = self.batch_sizes
        if not sizes or sizes[0] < 1 or list(sizes) != sorted(set(sizes)):
            raise ValueError(f"Expected batch sizes above 0 in ascending order. Received: {sizes}.")
        if self.batch_threads < 1:
            raise ValueError(f"Expected at least one batch thread. Received: {self.batch_threads}.")
        if not 0 <= self.batch_seconds < self.limits.seconds:
            raise ValueError(
                f"Expected a batch to wait from 0 to {self.limits.seconds} s. Received: {self.batch_seconds}."
            )
        if self.keep_versions is not None and self.keep_versions < 1:
            raise ValueError(f"Expected to serve at least one version. Received: {self.keep_versions}.")
        if not (self.poll_seconds > 0 and self.drain_seconds >= 0):
            raise ValueError(
                "Expected poll_seconds above 0 and drain_seconds of at least 0. "
                f"Received: {self.poll_seconds}, {self.drain_seconds}."
            )
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("Expected a TLS certificate and its key together. Received: one of them.")
        if self.token is not None and (not self.token or not self.token.isascii() or not self.token.isprintable()):
            raise ValueError("Expected a token of printable ASCII characters. Received: an empty or other one.")
        if self.rest_port == self.grpc_port != 0:
            raise ValueError(f"Expected two ports for REST and gRPC. Received: {self.rest_port} for both.")
