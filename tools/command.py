"""The command line of a tool: its parser with `--help`, and its exit status for invalid input."""

import argparse
import io
import sys
from collections.abc import Callable

from siglip_tf.signals import interruptible

from .packages import IS_CLONE

# Tools whose verb has a different name from their module.
_VERBS = {"inspect_data": "inspect", "precompute_embeddings": "precompute"}


def command_parser(name: str, about: str) -> argparse.ArgumentParser:
    """Returns the parser of a tool. Its help shows `about`, with the command that works in this installation.

    Args:
        name: the name of the tool's module.
        about: the text of `--help`, in which the command is `python -m tools.NAME`.
    """
    in_clone = f"python -m tools.{name}"
    command = in_clone if IS_CLONE else f"siglip-tf {_VERBS.get(name, name.replace('_', '-'))}"
    return argparse.ArgumentParser(
        prog=command,
        description=about.replace(in_clone, command),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def exit_status(run: Callable[[], None], *, fault: int = 1, prefix: str = "") -> int:
    """Runs a command. Returns 0, or prints what is wrong to stderr and returns `fault`.

    Args:
        run: the command. It raises a ValueError, an OSError, or an error of a TensorFlow op if its input is invalid.
        fault: the exit status for such an error.
        prefix: the text before the error message.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file name may contain any bytes
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
    """Returns the message of a TensorFlow op's error without the names of graph nodes, or None for other errors."""
    if "tensorflow" not in sys.modules:  # do not load TensorFlow for a command that does not use it
        return None
    import tensorflow as tf

    from siglip_tf.data.order.bad_records import first_line

    return first_line(error) if isinstance(error, tf.errors.OpError) else None
