"""A process that computes cells: a line of JSON in, a line of JSON out. Started by `sweep.py`, one thread each."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path


def main(root: Path) -> int:
    """Reads cells from standard input until it ends, or until nobody reads the answers."""
    from .cell import KINDS, Cell, write_result

    # Whatever libraries print belongs to the people's stream; the answers have this one to themselves.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        cell = Cell(**json.loads(line))
        started, worked = time.monotonic(), time.process_time()
        cell.folder(root).mkdir(parents=True, exist_ok=True)
        result = KINDS[cell.kind].compute(cell.settings, cell.folder(root), root)
        seconds = time.monotonic() - started
        write_result(cell, root, result, seconds, time.process_time() - worked)
        answer = {"seconds": seconds, "summary": KINDS[cell.kind].summary(result)}
        try:
            print(json.dumps(answer), file=answers, flush=True)
        except BrokenPipeError:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
