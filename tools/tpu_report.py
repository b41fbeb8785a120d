"""Reports the TPU compiler's memory and time estimates for a recipe's training step, on a machine without a TPU.

    python -m tools.tpu_report siglip --topology v4:2x2x1 --global-batch 4096
    python -m tools.tpu_report siglip --topology v5e:2x2 --global-batch 2048 --search-batch --html report.html
    python -m tools.tpu_report siglip --global-batch 4096 --search-batch --compare softmax
    python -m tools.tpu_report --paper

RECIPE is a module of `recipes/` with a function `tpu_subject(**overrides)`, or "package.module:function". See
`siglip_tf.tpu.Recipe`. Compiling takes minutes. A program that was compiled before is read from a cache.
"""

from __future__ import annotations

import ast
import functools
import importlib
import json
import sys
from pathlib import Path

from siglip_tf import tpu

from .command import command_parser
from .packages import RECIPES
from .tpu.page import write_page
from .tpu.table import table


def main(argv: list[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    arguments = _parser().parse_args(argv)
    if arguments.paper:
        from .tpu.paper import run_paper

        return run_paper(arguments.only, sys.stdout, progress_line)
    if not arguments.recipe:
        _parser().error("a RECIPE or --paper is needed")
    try:
        topology = tpu.Topology(arguments.topology)
        recipe = find_recipe(arguments.recipe)
        overrides = dict(_override(text) for text in arguments.set)
        losses = [None, *([arguments.compare] if arguments.compare else [])]
        groups = {}
        for loss in losses:
            extra = overrides if loss is None else {**overrides, "loss": loss}
            groups[loss or extra.get("loss", "sigmoid")] = _reports(recipe, topology, arguments, extra)
    except (ValueError, ImportError) as error:
        print(f"tpu_report: {error}", file=sys.stderr)
        return 2
    if arguments.json:
        print(json.dumps({name: [r.to_dict() for r in reports] for name, reports in groups.items()}, indent=1))
    else:
        for name, reports in groups.items():
            print(table(reports, title=f"{arguments.recipe}, {name} loss, {topology.name}", ops=arguments.ops))
    if arguments.html:
        write_page(Path(arguments.html), f"{arguments.recipe} on {topology.name}", groups)
        print(f"Wrote {arguments.html}", file=sys.stderr)
    return 0


def find_recipe(name: str) -> tpu.Recipe:
    """Returns the recipe that a command line names.

    Raises:
        ValueError: if there is no such recipe.
    """
    module, _, function = name.partition(":")
    module, function = (module, function) if function else (f"{RECIPES}.{name}", "tpu_subject")
    try:
        return getattr(importlib.import_module(module), function)
    except (ModuleNotFoundError, AttributeError) as error:
        raise ValueError(f"Expected a recipe with tpu_subject(), or 'package.module:function'. {error}") from error


def progress_line(what: str):
    """Returns a function of seconds that updates one line of a terminal. A log gets only one line at the start."""
    if not sys.stderr.isatty():
        print(what, file=sys.stderr, flush=True)
        return lambda seconds: None
    shown = [-1]

    def show(seconds: float) -> None:
        if int(seconds) != shown[0]:
            shown[0] = int(seconds)
            print(f"\r\033[K{what}: {shown[0] // 60}:{shown[0] % 60:02d}", end="", file=sys.stderr, flush=True)

    return show


def clear_line() -> None:
    """Ends a progress line."""
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)


def _reports(recipe, topology, arguments, overrides):
    def compile_at(batch):
        show = progress_line(f"compiling {arguments.recipe}, global batch {batch}, for {topology.name}")
        try:
            return tpu.report(recipe, topology, batch, show, **overrides)
        finally:
            clear_line()

    if arguments.search_batch:
        return tpu.largest_batch(compile_at, topology.chips, arguments.global_batch, arguments.search_step)
    return [compile_at(arguments.global_batch)]


def _override(text):
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"Expected --set name=value. Received: {text!r}.")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


@functools.cache
def _parser():
    parser = command_parser("tpu_report", __doc__)
    parser.add_argument("recipe", nargs="?", metavar="RECIPE", help="recipe, such as siglip")
    parser.add_argument(
        "--topology", default="v4:2x2x1", help="the slice, such as v4:2x2x1, v5e:2x4 (default %(default)s)"
    )
    parser.add_argument("--global-batch", type=int, default=4096, help="examples per step (default %(default)s)")
    parser.add_argument(
        "--search-batch", action="store_true", help="find the largest batch that fits, starting from --global-batch"
    )
    parser.add_argument(
        "--search-step", type=int, default=64, help="step of the search, in examples per chip (default %(default)s)"
    )
    parser.add_argument("--compare", metavar="LOSS", help="compare with another loss: softmax")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="override a setting of the recipe"
    )
    parser.add_argument("--ops", type=int, default=12, help="number of operations to list (default %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--html", metavar="FILE", help="also write a page with a plot of memory by batch")
    parser.add_argument(
        "--paper", action="store_true", help="report all runs of the paper and check what is claimed about them"
    )
    parser.add_argument("--only", help="with --paper, only rows whose name contains this text")
    return parser


if __name__ == "__main__":
    sys.exit(main())
