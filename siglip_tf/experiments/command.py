"""The command line of a recipe. It reads and checks the settings, then imports TensorFlow for the plan or the run."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence

from ml_collections import ConfigDict

from siglip_tf.experiments import checks, config
from siglip_tf.experiments.recipe import Recipe
from siglip_tf.signals import interruptible


def parser(recipe: Recipe) -> argparse.ArgumentParser:
    """The command line of a recipe."""
    arguments = argparse.ArgumentParser(
        prog=recipe.command, description=recipe.about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = list(recipe.setups)
    arguments.add_argument(
        "setup", nargs="?", choices=names, default=names[0], metavar="SETUP", help=f"{', '.join(names)} ({names[0]})"
    )
    for name, option in recipe.options.items():
        arguments.add_argument(f"--{name}", metavar=name.upper().replace("-", "_"), help=option.help)
    arguments.add_argument("--run", help=f"the run's folder, local or gs:// (runs/{recipe.name}-SETUP)")
    arguments.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting; see --show"
    )
    arguments.add_argument(
        "--evaluate", action="append", default=[], metavar="TASK",
        help="evaluate while training: a task as in tools.evaluate, or held_out for the data's own held-out part",
    )  # fmt: skip
    arguments.add_argument("--every", metavar="STEPS", help="steps between evaluations")
    arguments.add_argument("--synthetic", action="store_true", help="do a tiny run on synthetic data, on any machine")
    arguments.add_argument("--embedded", dest="synthetic", action="store_true", help=argparse.SUPPRESS)
    arguments.add_argument(
        "--inputs",
        metavar="HOST:PORT,...",
        help="processes that make the batches; see python -m tools.tpu_input --help",
    )
    arguments.add_argument("--fresh", action="store_true", help="delete the run's folder and start again")
    arguments.add_argument("--dry-run", action="store_true", help="build everything, print the plan, and stop")
    arguments.add_argument(
        "--tpu-report", action="store_true", help="with --dry-run: compile for the TPU, which takes minutes"
    )
    arguments.add_argument("--show", action="store_true", help="print all settings, and stop")
    arguments.add_argument(
        "--until", type=int, metavar="STEP", help="stop at this step; the same command continues later"
    )
    return arguments


def _act(recipe: Recipe, arguments: argparse.Namespace) -> int:
    c = chosen_settings(recipe, arguments)
    if arguments.show:
        print("\n".join(f"{key}={value}" for key, value in config.flat(c).items()))
    elif arguments.dry_run or arguments.tpu_report:
        _print_plan(recipe, arguments, c)
    else:
        _run(recipe, arguments, c)
    return 0


def main(recipe: Recipe, argv: Sequence[str] | None = None) -> int:
    """Runs a recipe's command; returns its exit code."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    arguments = parser(recipe).parse_args(argv)
    arguments.command = " ".join([recipe.command, *map(shlex.quote, sys.argv[1:] if argv is None else argv)])
    try:
        with interruptible():
            return _act(recipe, arguments)
    except BrokenPipeError:  # as in `--show | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, ImportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        from siglip_tf.data.service import InputProcessError

        if not isinstance(error, InputProcessError):
            raise
        print(f"error: {error} The same command continues.", file=sys.stderr, flush=True)
        sys.stdout.flush()
        # Exit at once: on a normal exit, TensorFlow closes its data sets and waits for the process that has ended.
        # Nothing is lost, because checkpoints are renamed into place.
        os._exit(3)
    except SystemExit as stop:
        print("The same command continues.", flush=True)
        return int(stop.code)


def chosen_settings(recipe: Recipe, arguments: argparse.Namespace) -> ConfigDict:
    """Returns the setup's settings, made small by `--synthetic`, with the values of the command line.

    Raises:
        ValueError: if a setting is unknown, or a value is not allowed.
    """
    c = recipe.settings(arguments.setup)
    arguments.named = {text.partition("=")[0].strip() for text in arguments.set}
    given = {name: getattr(arguments, name.replace("-", "_")) for name in recipe.options}
    if recipe.synthetic_by_default and given.get("data") is None:
        arguments.synthetic = True
    if arguments.synthetic:
        recipe.synthetic(c)
    for name, value in given.items():
        if value is not None:
            option = recipe.options[name]
            arguments.named.add(option.setting)
            try:
                config.override(c, [f"{option.setting}={option.form.format(value)}"])
            except ValueError as error:
                raise ValueError(f"--{name}: {error}") from error
    if arguments.evaluate:
        config.set_value(c, "evaluate.tasks", shlex.join(arguments.evaluate))
    if arguments.every is not None:
        config.override(c, [f"evaluate.every={arguments.every}"])
    config.override(c, arguments.set)
    if arguments.until is not None and arguments.until < 1:
        raise ValueError(f"Expected --until >= 1. Received: {arguments.until}")
    return c


def run_folder(recipe: Recipe, arguments: argparse.Namespace, c: ConfigDict) -> str:
    """Returns the run's folder: `--run` or a default. A synthetic run of an earlier version stays where it is."""
    if arguments.run:
        return arguments.run
    if recipe.synthetic_by_default:
        name = os.path.basename(os.path.abspath((c.data or "").partition("?")[0]))
        return f"runs/{recipe.name}" + ("" if arguments.synthetic else f"-{name.removeprefix('tfds:')}")
    if not arguments.synthetic:
        return f"runs/{recipe.name}-{arguments.setup}"
    before = f"runs/{recipe.name}-embedded"
    return before if os.path.exists(before) else f"runs/{recipe.name}-synthetic"


def _run(recipe: Recipe, arguments: argparse.Namespace, c: ConfigDict) -> None:
    checks.check(c, {} if arguments.synthetic else recipe.needs)
    import siglip_tf

    siglip_tf.load()
    from siglip_tf.data.order.bad_records import TooManyBadRecordsError
    from siglip_tf.experiments.run import run
    from siglip_tf.training import RunFolderInUseError, UnstableTrainingError

    try:
        run(
            recipe,
            c,
            run_folder(recipe, arguments, c),
            arguments.synthetic,
            named=arguments.named,
            until=arguments.until,
            fresh=arguments.fresh,
            command=arguments.command,
            inputs=arguments.inputs,
        )
    except (RunFolderInUseError, TooManyBadRecordsError, UnstableTrainingError) as error:
        raise ValueError(str(error)) from error


def _print_plan(recipe: Recipe, arguments: argparse.Namespace, c: ConfigDict) -> None:
    if not c.start and recipe.adopt is None:
        checks.check_plan(c)
    checks.check_topology(c)
    import siglip_tf

    siglip_tf.load()
    from siglip_tf.experiments.build import open_data
    from siglip_tf.experiments.plan import plan

    words = [recipe.command, arguments.setup]
    words += ["--synthetic"] if arguments.synthetic else []
    given = {name: getattr(arguments, name.replace("-", "_")) for name in recipe.options}
    words += [f"--{name} {shlex.quote(value)}" for name, value in given.items() if value]
    words += [f"--set {shlex.quote(text)}" for text in arguments.set]
    if recipe.adopt is not None:
        recipe.adopt(c)
    size = (recipe.size or (lambda c: open_data(c).size))(c) if c.data else None
    if recipe.shape is not None and size is not None:
        print("\n".join(recipe.shape(c, arguments.named, size)))
    if recipe.adapt is not None:
        print("\n".join(recipe.adapt(c, arguments.named, size)))
    print(plan(" ".join(words), c, size, arguments.tpu_report))
