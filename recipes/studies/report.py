"""Writes docs/studies.md and its pictures from the computed cells: `python -m recipes.studies.report`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from . import write_up
from .all import STUDIES
from .study import ROOT, SEEDS


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the document and the page from the computed cells."""
    arguments = argparse.ArgumentParser(prog="python -m recipes.studies.report", description=__doc__)
    arguments.add_argument("--seeds", type=int, default=SEEDS)
    arguments.add_argument("--root", type=Path, default=ROOT)
    arguments.add_argument("--document", type=Path, default=write_up.DOCUMENT)
    given = arguments.parse_args(argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    found = write_up.write_document(STUDIES, given.seeds, given.root, given.document)
    page = write_up.write(STUDIES, given.seeds, given.root, "all")
    print(f"{given.document} and {page}: {len(found)} studies")
    return 0


if __name__ == "__main__":
    sys.exit(main())
