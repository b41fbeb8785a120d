"""Serving: the cost of the served path, and `tools.serve` under load, hostile requests, and a kill.

python -m tools.benchmark serving [--parts path,load,soak,hostile,kill] [--model B/16] [--text B]

- path: the SavedModel's signatures beside the bare towers, in this process.
- load: requests a second, and the median and slowest hundredth, at 1, 8, and 64 clients over REST and gRPC on this
  machine, beside the same signature called without a server. The clients share the cores with the server.
- soak: many requests to a small model (mu/16), with pictures of 96 x 128 pixels so that the number of requests is what
  counts, and the server's memory along the way.
- hostile: broken JSON, messages, pictures, and addresses, and strange requests that are sound. Each answer of 200 must
  have the right shape, and each error must name a field. Sound requests before and after give equal answers.
- kill: SIGKILL and SIGTERM while 16 clients ask, and a new start on the same port.

A model of the named size with random weights is saved and exported by `tools.export`.
"""

import argparse
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

# TensorFlow reads it while it is imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from ._server_process import ServerProcess, serving
from ._serving_cost import exported, measure, pairs, random_model, texts
from ._serving_load import Question, load
from .data import SHAPES, photograph

_PARTS = ("path", "load", "soak", "hostile", "kill")
_BARE_BATCHES = (1, 8, 32)
_SMALL_SHAPES = ((96, 128), (128, 96))


def main(argv: list[str]) -> None:
    """Runs the parts that were asked for, and prints their figures."""
    options = _parser().parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        if {"path", "load"} & set(options.parts):
            _say(f"Making SigLIP {options.model} + {options.text} with random weights ...")
            model = random_model(options.model, options.text)
            path, seconds = exported(model, Path(folder), options.precision)
            print(
                f"export of {model.count_params():,} parameters, {options.precision}: {seconds:.1f} s, "
                "start to checked end"
            )
            if "path" in options.parts:
                _print_cost(measure(pairs(model, path, options.batch), options.rounds), options.batch)
            del model
            if "load" in options.parts:
                _print_load(Path(path), options)
        if {"soak", "hostile", "kill"} & set(options.parts):
            small = Path(folder, "small")
            small.mkdir()
            _say("Making SigLIP mu/16 + mu with random weights ...")
            exported(random_model("mu/16", "mu"), small, "float32")
            base = small / "served"
            if "soak" in options.parts:
                _print_soak(base, options.soak)
            if "hostile" in options.parts:
                _print_hostile(base, options.hostile, options.seed)
            if "kill" in options.parts:
                _print_kill(base)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "tools.benchmark serving", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--parts", type=_names, default=_PARTS, help=f"parts to run, among {','.join(_PARTS)} (default: all)"
    )
    parser.add_argument("--model", default="B/16", help="image tower (%(default)s)")
    parser.add_argument("--text", default="B", help="text tower (%(default)s)")
    parser.add_argument("--batch", type=_positive, default=8, help="path: images and texts per request (%(default)s)")
    parser.add_argument(
        "--rounds", type=_positive, default=7, help="path: measurements of each signature (%(default)s)"
    )
    parser.add_argument("--precision", default="float32", help="precision of the served weights (%(default)s)")
    parser.add_argument("--clients", type=_counts, default=(1, 8, 64), help="load: concurrent requests (1,8,64)")
    parser.add_argument("--seconds", type=float, default=10.0, help="load: seconds per measurement (%(default)s)")
    parser.add_argument("--soak", type=_positive, default=5_000, help="soak: number of requests (%(default)s)")
    parser.add_argument("--hostile", type=_positive, default=1_000, help="hostile: number of requests (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="hostile: seed of the requests (%(default)s)")
    return parser


def _names(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if unknown := set(names) - set(_PARTS):
        raise argparse.ArgumentTypeError(f"expected some of {', '.join(_PARTS)}; received {', '.join(unknown)}")
    return names


def _counts(text: str) -> tuple[int, ...]:
    return tuple(_positive(part) for part in text.split(","))


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number of at least 1; received {text!r}")
    return int(text)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _pictures(count: int, shapes: Sequence[tuple[int, int]] = SHAPES) -> list[bytes]:
    return [photograph(*shapes[i % len(shapes)], seed=i) for i in range(count)]


def _print_cost(times: dict[str, list[list[float]]], batch: int) -> None:
    print(f"{f'batch of {batch}':12} {'bare s':>8} {'served s':>9} {'served / bare':>14}")
    for name, (bare, served) in times.items():
        ratio = statistics.median(b / a for a, b in zip(bare, served, strict=True))
        print(f"{name:12} {statistics.median(bare):8.3f} {statistics.median(served):9.3f} {ratio:14.3f}")


def _print_load(path: Path, options: argparse.Namespace) -> None:
    questions = [Question("embed_image", {"images": [data]}) for data in _pictures(8)]
    print(f"\nembed_image, one JPEG a request, {options.seconds:g} s each")
    print(f"{'':22} {'requests/s':>10} {'p50 ms':>8} {'p99 ms':>8} {'errors':>7}")
    for batch, rate, milliseconds in _bare(path, questions, options.seconds / 2):
        print(f"{f'bare, batches of {batch}':22} {rate:10.1f} {milliseconds:8.1f}")
    with serving(path.parent) as server:
        for protocol in ("rest", "grpc"):
            load(protocol, server, questions, 8, seconds=min(2.0, options.seconds))  # the first runs of each size
            for clients in options.clients:
                found = load(protocol, server, questions, clients, seconds=options.seconds)
                print(
                    f"{f'{protocol}, {clients} clients':22} {found.rate:10.1f} {found.percentile(0.5):8.1f} "
                    f"{found.percentile(0.99):8.1f} {sum(found.errors.values()):7}",
                    flush=True,
                )
                _print_errors(found.errors)


def _bare(path: Path, questions: list[Question], seconds: float) -> list[tuple[int, float, float]]:
    """Batch size, pictures per second, and the median milliseconds of a call, of the signature without a server."""
    import tensorflow as tf
    import tensorflow_text  # noqa: F401 - registers the tokenizer's ops

    loaded = tf.saved_model.load(str(path))
    signature, rows = loaded.signatures["embed_image"], []
    for batch in _BARE_BATCHES:
        data = [questions[i % len(questions)].inputs["images"][0] for i in range(batch)]
        signature(images=tf.constant(data))
        times, started = [], time.perf_counter()
        while time.perf_counter() - started < seconds:
            begun = time.perf_counter()
            signature(images=tf.constant(data))["embedding"].numpy()
            times.append(time.perf_counter() - begun)
        rows.append((batch, batch * len(times) / sum(times), 1e3 * statistics.median(times)))
    return rows


def _small_questions() -> list[Question]:
    pictures, strings = _pictures(4, _SMALL_SHAPES), texts(4)
    return [
        Question("embed_image", {"images": pictures[:1]}),
        Question("embed_text", {"texts": strings[:2]}),
        Question("score", {"images": pictures[1:2], "texts": strings[:3]}),
        Question("embed_text", {"texts": strings[3:]}),
        Question("classify", {"images": pictures[2:], "labels": ["cat", "dog"]}),
    ]


def _print_soak(base: Path, requests: int) -> None:
    from ._serving_endurance import endure

    with serving(base) as server:
        endure(server, _small_questions(), min(1_000, requests))  # until every batch size was there
        found = endure(server, _small_questions(), requests)
    memory = [size / 2**20 for _, size in found.memory]
    print(f"\n{requests:,} requests of mixed kinds, 16 clients, mu/16: {found.load.rate:,.0f} a second")
    print(
        f"  memory {memory[0]:,.0f} MiB after a twentieth, {memory[-1]:,.0f} MiB at the end, {max(memory):,.0f} MiB "
        "at most"
    )
    print(f"  errors {sum(found.load.errors.values())}")
    _print_errors(found.load.errors)


def _print_hostile(base: Path, requests: int, seed: int) -> None:
    from ._serving_hostile import Hostile
    from ._serving_verdicts import bombard

    inputs = {
        "embed_image": ["images"],
        "embed_text": ["texts"],
        "score": ["images", "texts"],
        "classify": ["images", "labels"],
        "classify_with_templates": ["images", "labels", "templates"],
        "embed_image_pixels": ["pixels"],
    }
    sound = _small_questions()
    with serving(base) as server:
        before, memory = _answers(server, sound), server.resident_bytes()
        outcome = bombard(server, Hostile(seed, _pictures(1)[0], inputs), requests)
        alive = server.process.poll() is None
        equal = alive and _answers(server, sound) == before
        grown = (server.resident_bytes() - memory) / 2**20 if alive else float("nan")
    print(f"\n{requests:,} hostile requests: {dict(sorted(outcome.statuses.items()))}")
    print(
        f"  server alive: {alive}; sound requests answered as before: {equal}; memory grew by {grown:,.0f} MiB; "
        f"wrong answers: {len(outcome.wrong)}"
    )
    for line in outcome.wrong[:10]:
        print(f"    {line}")


def _answers(server: ServerProcess, questions: list[Question]) -> list[bytes]:
    import urllib.request

    answers = []
    for question in questions:
        with urllib.request.urlopen(f"{server.url}:predict", question.body(), timeout=60) as answer:
            answers.append(answer.read())
    return answers


def _print_kill(base: Path) -> None:
    from ._serving_endurance import kill

    for number, name in ((signal.SIGKILL, "SIGKILL"), (signal.SIGTERM, "SIGTERM")):
        found = kill(base, _small_questions(), number)
        print(
            f"\n{name} under load: {found.answered:,} requests answered; {sum(found.failed.values())} failed of at "
            f"most {found.most_in_flight} in flight: {found.failed}"
        )
        print(
            f"  started again in {found.seconds_to_serve:.1f} s on the same ports: {found.answered_after} answered, "
            f"{sum(found.errors_after.values())} errors"
        )


def _print_errors(errors: dict[str, int]) -> None:
    for text, count in sorted(errors.items(), key=lambda pair: -pair[1])[:5]:
        print(f"    {count} x {text}")


if __name__ == "__main__":
    main(sys.argv[1:])
