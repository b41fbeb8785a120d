"""The command line that all studies share: the sweep, the plan, and the report of the studies it is given."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from . import plan, write_up
from .study import ROOT, SEEDS, Study
from .sweep import cores, run
from .verdict import SECOND_LOOK


def parser(name: str, description: str) -> argparse.ArgumentParser:
    """The arguments that every study has."""
    arguments = argparse.ArgumentParser(prog=f"python -m recipes.studies.{name}", description=description)
    arguments.add_argument("--scale", choices=("small", "paper"), default="small", help="default %(default)s")
    arguments.add_argument(
        "--seeds", type=int, default=SEEDS, help="runs of every setting at the first look (%(default)s)"
    )
    arguments.add_argument("--dry-run", action="store_true", help="print the cells and what they cost, and stop")
    arguments.add_argument("--compile", action="store_true", help="at paper scale: compile what was never compiled")
    arguments.add_argument("--root", type=Path, default=ROOT, help="folder of cells and report (%(default)s)")
    arguments.add_argument("--minutes", type=float, default=None, help="begin no cell after these (no limit)")
    arguments.add_argument("--workers", type=int, default=None, help="processes (one for each core)")
    return arguments


def main(studies: Sequence[Study], name: str, argv: Sequence[str] | None = None) -> int:
    """The command of one study, or of all."""
    described = " ".join(studies[0].question.split()) if len(studies) == 1 else "All studies of the paper."
    arguments = parser(name, described.replace("**", "").replace("%", "%%")).parse_args(argv)
    try:
        if arguments.seeds < 1:
            raise ValueError(f"Expected --seeds of at least 1. Received: {arguments.seeds}.")
        if arguments.workers is not None and arguments.workers < 1:
            raise ValueError(f"Expected --workers of at least 1. Received: {arguments.workers}.")
        if arguments.minutes is not None and not arguments.minutes > 0:
            raise ValueError(f"Expected --minutes above 0. Received: {arguments.minutes}.")
        if arguments.compile and not (arguments.scale == "paper" and arguments.dry_run):
            raise ValueError("--compile belongs to --scale paper --dry-run, which it completes.")
        if arguments.scale == "paper":
            if not arguments.dry_run:
                raise ValueError(
                    "The paper's scale takes TPU slices, days and its data: --dry-run prints each run's chips, memory, "
                    "days and the recipe that launches it."
                )
            plan.paper(studies, arguments.compile, sys.stdout)
            return 0
        if arguments.dry_run:
            plan.small(studies, arguments.seeds, arguments.root, sys.stdout)
            return 0
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        whole = compute(studies, arguments)
        page = write_up.write(studies, arguments.seeds, arguments.root, name)
        for study in studies:
            print(f"\n{study.title}")
            for verdict in study.findings(study.results(arguments.seeds, arguments.root)).verdicts:
                print(f"  {verdict.sentence().replace('**', '')}")
        print(f"\n{page}")
        if not whole:
            print(f"Not all cells are computed. The same command continues: python -m recipes.studies.{name}")
    except (ValueError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nStopped. The same command continues: python -m recipes.studies.{name}", file=sys.stderr)
        return 130
    return 0


def compute(studies: Sequence[Study], arguments: argparse.Namespace) -> bool:
    """Computes both looks of the studies, headline claims first; returns whether every cell is computed."""
    end = None if arguments.minutes is None else time.monotonic() + 60 * arguments.minutes
    workers = arguments.workers or cores()

    def sweep(cells):
        left = None if end is None else max(0.0, end - time.monotonic())
        results = run(cells, arguments.root, workers, lambda text: print(text, flush=True), seconds=left)
        return None not in results.values()

    if not sweep([cell for study in studies for cell in study.cells(arguments.seeds)]):
        return False
    more = [cell for study in studies for cell in study.second_look(arguments.seeds, arguments.root)]
    if more:
        print(f"Second look: {len(more)} cells for the claims that {arguments.seeds} seeds leave open ({SECOND_LOOK}).")
    return sweep(more)
