"""Runs a benchmark: python -m tools.benchmark NAME [OPTIONS]. Each module of this folder is a benchmark."""

import importlib
import pkgutil
import sys

from . import __path__

NAMES = sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def main() -> None:
    """Runs the benchmark that the first argument names, with the other arguments."""
    wanted = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if wanted not in NAMES:
        print(f"usage: python -m tools.benchmark {{{','.join(NAMES)}}} [--help]")
        sys.exit(0 if wanted in ("-h", "--help") else f"Expected a benchmark among {', '.join(NAMES)}.")
    importlib.import_module(f"{__package__}.{wanted}").main(sys.argv[2:])


if __name__ == "__main__":
    main()
