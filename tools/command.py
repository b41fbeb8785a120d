"""A tool's command: how it answers `--help`, and how it ends where what a user gave is at fault."""

import argparse
import sys
from collections.abc import Callable

from .packages import IS_CLONE

# Tools whose verb has another name than their module.
_VERBS = {"inspect_data": "inspect", "precompute_embeddings": "precompute"}


def command_parser(name: str, about: str) -> argparse.ArgumentParser:
    """The parser of a tool, whose help shows `about` as written, with the command as this installation spells it.

    Args:
        name: the tool's module.
        about: the text of `--help`, which calls the command `python -m tools.NAME`.
    """
    in_clone = f"python -m tools.{name}"
    command = in_clone if IS_CLONE else f"siglip-tf {_VERBS.get(name, name.replace('_', '-'))}"
    return argparse.ArgumentParser(
        prog=command,
        description=about.replace(in_clone, command),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def exit_status(run: Callable[[], None], *, fault: int = 1, prefix: str = "") -> int:
    """Runs a command; returns 0, or `fault` once it has said on stderr what is wrong.

    Args:
        run: the command, which raises ValueError or OSError where what it was given is at fault.
        fault: the exit status of such an error.
        prefix: what stands before its sentence.
    """
    try:
        run()
    except (ValueError, OSError) as error:
        print(f"{prefix}{error}", file=sys.stderr)
        return fault
    return 0
