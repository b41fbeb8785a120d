"""The command line that all studies share: the sweep, the plan, and the report of the studies it is given."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from . import plan, write_up
from .study import ROOT, SEEDS, Study
from .sweep import cores, run


def parser(name: str, description: str) -> argparse.ArgumentParser:
    """The arguments that every study has."""
    arguments = argparse.ArgumentParser(prog=f"python -m recipes.studies.{name}", description=description)
    arguments.add_argument("--scale", choices=("small", "paper"), default="small", help="default %(default)s")
    arguments.add_argument("--seeds", type=int, default=SEEDS, help="runs of every setting (%(default)s)")
    arguments.add_argument("--dry-run", action="store_true", help="print the cells and what they cost, and stop")
    arguments.add_argument("--compile", action="store_true", help="at paper scale: compile what was never compiled")
    arguments.add_argument("--root", type=Path, default=ROOT, help="folder of cells and report (%(default)s)")
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
        workers = arguments.workers or cores()
        # The cheap ones first, so that a sweep that is stopped early has as many whole studies as can be.
        ordered = sorted(studies, key=lambda study: study.cost(arguments.seeds))
        cells = [cell for study in ordered for cell in study.cells(arguments.seeds)]
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        run(cells, arguments.root, workers, lambda text: print(text, flush=True))
        write_up.write(studies, arguments.seeds, arguments.root, name)
        for study in studies:
            print(f"\n{study.title}")
            for verdict in study.findings(study.results(arguments.seeds, arguments.root)).verdicts:
                print(f"  {verdict.sentence().replace('**', '')}")
        print(f"\n{arguments.root / 'report.html' if len(studies) > 1 else arguments.root / f'{name}.html'}")
    except (ValueError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nStopped. The same command continues: python -m recipes.studies.{name}", file=sys.stderr)
        return 130
    return 0
