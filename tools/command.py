"""A tool's command: how it answers `--help`, and how it ends where what a user gave is at fault."""

import argparse
import sys
from collections.abc import Callable


def command_parser(name: str, about: str) -> argparse.ArgumentParser:
    """The parser of `python -m tools.NAME`, whose help shows `about` as it is written."""
    return argparse.ArgumentParser(
        prog=f"python -m tools.{name}", description=about, formatter_class=argparse.RawDescriptionHelpFormatter
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
