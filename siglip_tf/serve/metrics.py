"""Prometheus metrics of a server, in a registry of its own."""

from collections.abc import Iterable

from siglip_tf.serve.signature import Signature
from siglip_tf.serve.versions import ServedModel

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Counts requests and batches. Labels hold known names only, so that no client can make new time series."""

    def __init__(self):
        import prometheus_client as prometheus

        self._generate = prometheus.generate_latest
        self.content_type = prometheus.CONTENT_TYPE_LATEST
        self.registry = prometheus.CollectorRegistry()
        prometheus.ProcessCollector(registry=self.registry)
        self._requests = prometheus.Counter(
            "siglip_serve_requests", "Requests answered", ["api", "model", "signature", "code"], registry=self.registry
        )
        self._seconds = prometheus.Histogram(
            "siglip_serve_request_seconds",
            "Seconds from the read request to the answer",
            ["api", "model", "signature"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._batch_rows = prometheus.Histogram(
            "siglip_serve_batch_rows", "Rows of a batch", ["signature"], buckets=_ROWS, registry=self.registry
        )
        self.waiting_rows = prometheus.Gauge(
            "siglip_serve_waiting_rows", "Rows that wait for the model", registry=self.registry
        )
        self.in_flight = prometheus.Gauge(
            "siglip_serve_in_flight", "Requests that are being answered", registry=self.registry
        )
        self._versions = prometheus.Gauge(
            "siglip_serve_version_available", "1 for a version that is served", ["model", "version"],
            registry=self.registry,
        )  # fmt: skip

    def answered(self, api: str, model: str, signature: str, code: str, seconds: float) -> None:
        """Notes one answer; `model` and `signature` are empty if the request named none that is known."""
        self._requests.labels(api, model, signature, code).inc()
        self._seconds.labels(api, model, signature).observe(seconds)

    def ran(self, signature: Signature, rows: int) -> None:
        """Notes one batch."""
        self._batch_rows.labels(signature.name).observe(rows)

    def loaded(self, models: Iterable[ServedModel]) -> None:
        """Notes which versions are served."""
        self._versions.clear()
        for model in models:
            for version in model.versions.values():
                if version.state == "AVAILABLE":
                    self._versions.labels(model.name, str(version.number)).set(1)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return self._generate(self.registry)
