"""The command `siglip-tf VERB ...` of an installed package. It has a verb for each tool, and `train` for recipes."""

import argparse
import importlib
import sys
from collections.abc import Sequence

from .packages import RECIPES, TOOLS, recipe_module, recipe_names, summary_of

# The module of `tools` for each verb.
VERBS = {
    "evaluate": "evaluate",
    "calibrate": "calibrate",
    "convert": "convert",
    "export": "export",
    "serve": "serve",
    "search": "search",
    "inspect": "inspect_data",
    "precompute": "precompute_embeddings",
    "count-shards": "count_shards",
    "train-tokenizer": "train_tokenizer",
    "tpu-report": "tpu_report",
    "tpu-host": "tpu_host",
    "tpu-input": "tpu_input",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    options = _parser().parse_args(argv)
    if options.verb == "train":
        return _train(options.arguments)
    return importlib.import_module(f"{TOOLS}.{VERBS[options.verb]}").main(options.arguments) or 0


def _train(arguments: list[str]) -> int:
    """Runs `siglip-tf train RECIPE ...`. Without a recipe, it lists the recipes."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: siglip-tf train RECIPE [--help] ...\n\nrecipes:")
        for name in recipe_names():
            print(f"  {name:<20} {summary_of(f'{RECIPES}.{name}')}")
        return 0 if arguments else 2
    try:
        module = recipe_module(arguments[0])
    except ValueError as error:
        print(f"siglip-tf train: {error}", file=sys.stderr)
        return 2
    if hasattr(module, "main"):
        return module.main(arguments[1:])
    from siglip_tf.experiments import command

    return command.main(module.RECIPE, arguments[1:])


def _parser() -> argparse.ArgumentParser:
    rows = {"train": "Train by a recipe: `siglip-tf train` lists them."}
    rows |= {verb: summary_of(f"{TOOLS}.{module}") for verb, module in VERBS.items()}
    listing = "\n".join(f"  {verb:<18} {text}" for verb, text in rows.items())
    parser = argparse.ArgumentParser(
        prog="siglip-tf",
        description="Image-text training with the sigmoid loss (SigLIP), in TensorFlow and Keras.",
        epilog=f"verbs:\n{listing}\n\n`siglip-tf VERB --help` explains a verb.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"siglip-tf {_version()}")
    parser.add_argument("verb", choices=list(rows), metavar="VERB", help="what to do; see below")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="arguments of the verb")
    try:
        import argcomplete
    except ImportError:
        return parser
    argcomplete.autocomplete(parser)  # does nothing unless the shell asks for completions
    return parser


def _version() -> str:
    from importlib import metadata

    return metadata.version("siglip-tf")


if __name__ == "__main__":
    sys.exit(main())
