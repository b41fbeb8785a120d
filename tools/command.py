"""A tool's command: how it answers `--help`, and how it ends where what a user gave is at fault."""

import argparse
import io
import sys
from collections.abc import Callable

from siglip_tf.signals import interruptible

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
    """Runs a command; returns 0, or `fault` after it has said on stderr what is wrong.

    Args:
        run: the command, which raises ValueError, OSError or an error of a TensorFlow op where its input is at fault.
        fault: the exit status of such an error.
        prefix: what stands before its sentence.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file's name may be any bytes
            stream.reconfigure(errors="backslashreplace")
    try:
        with interruptible():
            run()
    except (ValueError, OSError, MemoryError) as error:
        print(f"{prefix}{error or type(error).__name__}", file=sys.stderr)
        return fault
    except Exception as error:
        if (sentence := _of_tensorflow(error)) is None:
            raise
        print(f"{prefix}{sentence}", file=sys.stderr)
        return fault
    return 0


def _of_tensorflow(error: Exception) -> str | None:
    """The sentence of an op's error, without the names of graphs; None for other errors."""
    if "tensorflow" not in sys.modules:  # a command that does not use it does not load it here
        return None
    import tensorflow as tf

    from siglip_tf.data.order.bad_records import first_line

    return first_line(error) if isinstance(error, tf.errors.OpError) else None
