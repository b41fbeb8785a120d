"""Makes a part of a run's training batches and serves it to the host that trains on it.

    python -m tools.tpu_input siglip 32k --data "gs://bucket/{00000..09999}.tar" --tokenizer c4_en.model \\
        --run gs://bucket/siglip --index 0 --count 4

Run one such process on every TPU host, with the recipe, options, and settings of the coordinator's command. Only
--index differs between hosts. Its default is Cloud's TPU_WORKER_ID. The coordinator needs the addresses of all of them:

    python -m recipes.siglip 32k ... --inputs host0:5050,host1:5050,host2:5050,host3:5050

Several machines may feed a host: with 8 input processes for 4 hosts, processes 0 and 1 feed the first host. An input
process continues to run when a coordinator ends, and serves the next one from its first step. It does not need a chip.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence

from .command import command_parser
from .packages import recipe_module

_PORT = 5050


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # The chips belong to the host's TensorFlow runtime. The first process that loads libtpu locks out the others.
    os.environ["TPU_LOAD_LIBRARY"] = "0"
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    arguments, rest = _parser().parse_known_args(argv)
    try:
        index, count = share(arguments, os.environ)
        serve(arguments.recipe, rest, index, count, arguments.port)
    except (ValueError, ImportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def share(arguments: argparse.Namespace, environment: Mapping[str, str]) -> tuple[int, int]:
    """Returns the number of this process and the count, from the command line or a TPU host's environment.

    Raises:
        ValueError: if neither contains them.
    """
    index, count = arguments.index, arguments.count
    if index is None and environment.get("TPU_WORKER_ID", "").isdigit():
        index = int(environment["TPU_WORKER_ID"])
    if count is None and environment.get("TPU_WORKER_HOSTNAMES"):
        count = len(environment["TPU_WORKER_HOSTNAMES"].split(","))
    if index is None or count is None:
        raise ValueError(
            "Which share of the batches this process makes is not known: say --index and --count, or set TPU_WORKER_ID "
            "and TPU_WORKER_HOSTNAMES, as TPU hosts do."
        )
    return index, count


def serve(recipe_name: str, rest: Sequence[str], index: int, count: int, port: int) -> None:
    """Prepares a recipe's data and serves a part of it until the process ends.

    Raises:
        ValueError: if the settings, the data, or the part are invalid, or there is no such recipe.
        OSError: if the port is in use.
    """
    from siglip_tf.data.service import InputServer
    from siglip_tf.experiments import checks, command

    recipe = recipe_module(recipe_name).RECIPE
    options = command.parser(recipe).parse_args(rest)
    c = command.chosen_settings(recipe, options)
    checks.check(c, {} if options.synthetic else recipe.needs)
    prepared = recipe.prepare(c, command.run_folder(recipe, options, c), options.synthetic)
    if recipe.adapt is not None:
        recipe.adapt(c, options.named, None if options.synthetic else prepared.examples)
    server = InputServer(prepared.data(), index, count, port)
    print(f"Serving share {index} of {count} at port {server.port}.", flush=True)
    server.wait()


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("tpu_input", __doc__)
    parser.usage = "%(prog)s RECIPE [SETUP] [options of the recipe] [--index I --count N] [--port PORT]"
    parser.add_argument("recipe", metavar="RECIPE", help="recipe, such as siglip, followed by its own options")
    parser.add_argument("--index", type=int, help="number of this process, from 0 (default: TPU_WORKER_ID)")
    parser.add_argument(
        "--count", type=int, help="number of input processes (default: the number of TPU_WORKER_HOSTNAMES)"
    )
    parser.add_argument("--port", type=int, default=_PORT, help="port for the coordinator (default %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
