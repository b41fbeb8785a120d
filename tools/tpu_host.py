"""Checks the installation on a TPU host, and compares the compiler's estimates with measurements on the chips.

    python -m tools.tpu_host --check                                                # anywhere, no chip needed
    python -m tools.tpu_report siglip --global-batch 4096 --json > estimate.json    # anywhere
    python -m tools.tpu_host siglip --global-batch 4096 --estimate estimate.json    # on the TPU host

--check compares versions, looks up the names that TensorFlow needs in libtpu, tests tensorflow-text, compiles jax's
attention kernel with libtpu's compiler, and looks for chips. It reports the step at which it stops.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from .command import command_parser
from .tpu.check import check


def main(argv: list[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.check:
        return check()
    if arguments.recipe is None:
        parser.error("a RECIPE or --check is needed")
    from siglip_tf.distribution.tpu_system import TPUError

    try:
        print(measured(arguments))
    except (TPUError, ValueError) as error:
        print(f"tpu_host: {error}", file=sys.stderr)
        return 2
    return 0


def measured(arguments: argparse.Namespace) -> str:
    """Returns a table of measurements on the chips with the earlier estimates.

    Raises:
        TPUError: if the TPU cannot be used.
        ValueError: if there is no such recipe.
    """
    from siglip_tf.distribution import tpu_system
    from siglip_tf.tpu.topology import GIB

    from .tpu import measure
    from .tpu_report import find_recipe

    recipe = find_recipe(arguments.recipe)
    strategy = tpu_system.connect(arguments.tpu)
    found = {
        "seconds a step": measure.step_seconds(strategy, recipe, arguments.global_batch, arguments.steps),
        "loss, relative error": measure.loss_error(strategy),
        "peak GiB of a chip": measure.peak_bytes(strategy) / GIB,
    }
    expected = {"loss, relative error": 1e-6}
    if arguments.estimate:
        (reports,) = json.loads(arguments.estimate.read_text()).values()
        expected |= {"seconds a step": reports[-1]["seconds"], "peak GiB of a chip": reports[-1]["used_gib"]}
    rows = [f"{'':<24}{'on the chip':>14}{'said before':>14}"]
    for name, value in found.items():
        before = f"{expected[name]:.4g}" if name in expected else "-"
        rows.append(f"{name:<24}{value:>14.4g}{before:>14}")
    return "\n".join(rows)


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("tpu_host", __doc__)
    parser.add_argument("recipe", nargs="?", metavar="RECIPE", help="recipe, as for tools.tpu_report")
    parser.add_argument("--check", action="store_true", help="check the installation, with or without chips, and stop")
    parser.add_argument("--tpu", help="name or address of the TPU (default: TPU_NAME, else this host's chips)")
    parser.add_argument("--global-batch", type=int, default=4096, help="examples per step (default %(default)s)")
    parser.add_argument(
        "--steps", type=int, default=30, help="steps to time, after 5 steps of warm-up (default %(default)s)"
    )
    parser.add_argument("--estimate", type=Path, help="what tools.tpu_report --json printed for this recipe and batch")
    return parser


if __name__ == "__main__":
    sys.exit(main())
