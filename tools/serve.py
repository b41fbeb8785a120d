"""Serves exported models over TensorFlow Serving's REST and gRPC, where TensorFlow Serving itself is not at hand.

    python -m tools.export CHECKPOINT served/siglip
    python -m tools.serve served/siglip
    curl localhost:8501/v1/models/siglip

Clients written for TensorFlow Serving work unchanged. Requests that arrive together run as one batch, new version
folders are loaded by themselves, and SIGTERM answers what is in flight before it ends the server. Health checks are at
/healthz and /readyz and in gRPC's health service; metrics for Prometheus are at /metrics.
"""

import argparse
import asyncio
import logging
import os
import signal
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from siglip_tf.serve import Limits, ModelServer, Settings

from .command import command_parser, exit_status

_TOKEN_VARIABLE = "SIGLIP_SERVE_TOKEN"


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    return exit_status(lambda: asyncio.run(_serve(_models(options.models), _settings(options))))


def _parser() -> argparse.ArgumentParser:
    defaults, limits = Settings(), Limits()
    parser = command_parser("serve", __doc__)
    parser.add_argument(
        "models",
        metavar="MODEL",
        nargs="+",
        help="folder that tools.export wrote, or NAME=FOLDER; may be given several times",
    )
    parser.add_argument("--host", default=defaults.host, help="address to listen on (default %(default)s)")
    parser.add_argument(
        "--rest-port", type=int, default=defaults.rest_port, help="default %(default)s; 0 for any free one"
    )
    parser.add_argument(
        "--grpc-port", type=int, default=defaults.grpc_port, help="default %(default)s; 0 for any free one"
    )
    parser.add_argument(
        "--versions", default="1", metavar="N", help="number of newest versions to serve, or all (default 1)"
    )
    parser.add_argument(
        "--poll",
        type=float,
        default=defaults.poll_seconds,
        metavar="S",
        help="seconds between two looks for new versions",
    )

    batching = parser.add_argument_group("batching")
    batching.add_argument(
        "--batch-sizes",
        default=",".join(map(str, defaults.batch_sizes)),
        metavar="N,N,...",
        help="sizes that batches are padded to; the last one is the largest (default %(default)s)",
    )
    batching.add_argument(
        "--batch-timeout-ms", type=float, default=1e3 * defaults.batch_seconds, metavar="MS",
        help="how long an idle thread waits for a batch to fill (default %(default)s)",
    )  # fmt: skip
    batching.add_argument(
        "--batch-threads", type=int, default=defaults.batch_threads, metavar="N", help="default %(default)s"
    )

    bounds = parser.add_argument_group("limits")
    bounds.add_argument(
        "--max-body-mb", type=float, default=limits.body_bytes / 2**20, metavar="MIB", help="default %(default)s"
    )
    bounds.add_argument(
        "--max-rows",
        type=int,
        default=limits.rows,
        metavar="N",
        help="largest number of pictures or texts in a request",
    )
    bounds.add_argument("--max-pixels", type=int, metavar="N", help="largest picture (default: the export's limit)")
    bounds.add_argument(
        "--queue",
        type=int,
        default=limits.queue_rows,
        metavar="ROWS",
        help="rows that may wait; requests beyond it get status 429",
    )
    bounds.add_argument(
        "--waiting-mb",
        type=float,
        default=limits.waiting_bytes / 2**20,
        metavar="MIB",
        help="bytes of all requests that may wait",
    )
    bounds.add_argument(
        "--timeout", type=float, default=limits.seconds, metavar="S", help="seconds until a request times out"
    )
    bounds.add_argument(
        "--drain",
        type=float,
        default=defaults.drain_seconds,
        metavar="S",
        help="seconds to finish requests after SIGTERM",
    )

    security = parser.add_argument_group("security")
    security.add_argument("--tls-cert", metavar="PEM", help="certificate; with it both ports speak TLS")
    security.add_argument("--tls-key", metavar="PEM", help="key of the certificate")
    security.add_argument(
        "--token-file", metavar="FILE", type=Path,
        help=f"requests need 'Authorization: Bearer' with its text (or the variable {_TOKEN_VARIABLE})",
    )  # fmt: skip
    return parser


def _models(given: list[str]) -> dict[str, str]:
    models: dict[str, str] = {}
    for text in given:
        name, equals, path = text.partition("=")
        if not equals or "/" in name:
            path, name = text, os.path.basename(os.path.abspath(text))
        if name in models:
            raise ValueError(f"Expected different names. Received: {name!r} twice. Use NAME=FOLDER.")
        models[name] = path
    return models


def _settings(options: argparse.Namespace) -> Settings:
    token = os.environ.get(_TOKEN_VARIABLE)
    if options.token_file is not None:
        token = options.token_file.read_text(encoding="utf-8").strip()
    return Settings(
        host=options.host,
        rest_port=options.rest_port,
        grpc_port=options.grpc_port,
        batch_sizes=_numbers("--batch-sizes", options.batch_sizes),
        batch_seconds=options.batch_timeout_ms / 1e3,
        batch_threads=options.batch_threads,
        keep_versions=None if options.versions == "all" else _numbers("--versions", options.versions)[0],
        poll_seconds=options.poll,
        drain_seconds=options.drain,
        tls_certificate=options.tls_cert,
        tls_key=options.tls_key,
        token=token,
        limits=Limits(
            body_bytes=int(options.max_body_mb * 2**20),
            rows=options.max_rows,
            pixels=options.max_pixels,
            queue_rows=options.queue,
            waiting_bytes=int(options.waiting_mb * 2**20),
            seconds=options.timeout,
        ),
    )


def _numbers(option: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"Expected numbers with {option}. Received: {text!r}.") from None


async def _serve(models: dict[str, str], settings: Settings) -> None:
    server = ModelServer(models, settings)
    stop, started = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _stop, stop, number)
    running = asyncio.create_task(server.run(stop, started))
    waiting = asyncio.create_task(started.wait())
    await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
    if started.is_set():
        scheme = "http" if settings.tls_certificate is None else "https"
        for name, model in server.models.items():
            numbers = ", ".join(str(v.number) for v in model.versions.values() if v.state == "AVAILABLE")
            print(f"{name} (version {numbers}): {scheme}://{settings.host}:{server.rest_port}/v1/models/{name}")
        print(f"gRPC on {settings.host}:{server.grpc_port}. Stop with Ctrl-C or SIGTERM.", flush=True)
        if settings.token is None and settings.host not in ("127.0.0.1", "::1", "localhost"):
            print("Anyone who reaches this address can ask this server: --token-file limits that.", file=sys.stderr)
    waiting.cancel()
    unanswered = await running
    print(f"Stopped; {unanswered} requests in flight were not answered." if unanswered else "Stopped.", flush=True)


def _stop(stop: asyncio.Event, number: int) -> None:
    if stop.is_set():  # a second signal does not wait
        os._exit(128 + number)
    logging.getLogger(__name__).info("%s: answering what is in flight", signal.Signals(number).name)
    stop.set()


if __name__ == "__main__":
    sys.exit(main())
