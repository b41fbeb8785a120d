"""Computes the missing cells of a sweep in as many processes as there are cores.

A sweep that was killed continues with the cells that are missing.
"""

from __future__ import annotations

import json
import math
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .cell import Cell, with_requirements

WORKER = f"{__package__}.worker"
_LEARNING = 3  # finished cells before a time left is shown


def run(
    cells: Sequence[Cell],
    root: Path,
    workers: int,
    say: Callable[[str], None],
    module: str = WORKER,
    seconds: float | None = None,
) -> dict[str, dict[str, Any] | None]:
    """Computes what is missing.

    Args:
        cells: the sweep; what they need is computed too.
        root: folder of all cells.
        workers: processes, each of one thread.
        say: called with a line for every cell that is done.
        module: that the processes run, see `worker.py`.
        seconds: after these no further cell is begun.

    Returns:
        Results by the key of the cell; None of cells that there was no time for.

    Raises:
        RuntimeError: a cell's process ended; it has said why on standard error.
    """
    everything = with_requirements(cells)
    missing = [cell for cell in everything if cell.result(root) is None]
    stale = [changed for cell in missing if (changed := cell.changes(root))]
    if stale:
        parts = sorted({part for changed in stale for part in changed})
        say(f"{len(stale)} cells are stale and are computed again. Their source changed: {', '.join(parts)}.")
    if missing:
        _Pool(everything, missing, root, min(workers, len(missing)), say, module).run(seconds)
    return {cell.key: cell.result(root) for cell in everything}


class _Pool:
    """Worker processes, each of which receives a cell as soon as the cells that it needs are computed."""

    def __init__(self, everything, missing, root, workers, say, module):
        self._waiting = list(missing)
        self._undone = {cell.key for cell in missing}
        self._needs = {cell.key: {needed.key for needed in cell.needs} for cell in missing}
        self._cost = {cell.key: cell.cost for cell in missing}
        self._root, self._say, self._total = root, say, len(everything)
        self._messages: queue.Queue[tuple[_Worker, dict[str, Any] | None]] = queue.Queue()
        self._workers = [_Worker(root, self._messages, module) for _ in range(workers)]
        self._spent: list[tuple[float, float]] = []  # (estimated, measured) seconds of finished cells

    def run(self, seconds: float | None) -> None:
        idle = list(self._workers)
        end = math.inf if seconds is None else time.monotonic() + seconds
        try:
            while self._undone:
                if time.monotonic() > end and len(idle) == len(self._workers):
                    return
                for worker in list(idle) if time.monotonic() <= end else ():
                    cell = self._next(worker)
                    if cell is None:
                        break
                    idle.remove(worker)
                    worker.start(cell)
                worker, message = self._messages.get()
                if message is None:
                    raise RuntimeError(
                        f"The process that computed '{worker.cell.label or worker.cell.key}' ended with exit code "
                        f"{worker.exit_status()}; its message stands above. The same command continues from here."
                    )
                self._undone.discard(worker.cell.key)
                self._spent.append((self._cost[worker.cell.key], message["seconds"]))
                self._report(worker.cell, message)
                idle.append(worker)
        finally:
            for worker in self._workers:
                worker.stop()

    def _next(self, worker) -> Cell | None:
        """The first cell that can be computed, rather one of the group that the worker is at, or that nobody is at."""
        ready = [cell for cell in self._waiting if not self._needs[cell.key] & self._undone]
        others = {self._group(other.cell) for other in self._workers if other is not worker} - {""}
        for wanted in (
            lambda cell: self._group(cell) and self._group(cell) == self._group(worker.cell),
            lambda cell: self._group(cell) not in others,
            lambda cell: True,
        ):
            for cell in filter(wanted, ready):
                self._waiting.remove(cell)
                return cell
        return None

    @staticmethod
    def _group(cell) -> str:
        return "" if cell is None else cell.group

    def _report(self, cell, message):
        done = self._total - len(self._undone)
        text = f"[{done}/{self._total}] {cell.label or cell.kind}: {message['summary']} in {message['seconds']:.0f} s"
        if len(self._spent) >= _LEARNING and self._undone:
            slower = sum(measured for _, measured in self._spent) / sum(estimated for estimated, _ in self._spent)
            left = slower * sum(self._cost[key] for key in self._undone) / len(self._workers)
            text += f"; about {max(1, round(left / 60))} min left"
        self._say(text)


class _Worker:
    """A process of `worker.py`: cells go in as lines of JSON, results come out as lines of JSON."""

    def __init__(self, root: Path, messages: queue.Queue, module: str):
        threads = dict.fromkeys(("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"), "1")
        self.cell: Cell | None = None
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, str(root.resolve())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **threads, "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"},
            cwd=Path(__file__).parents[2],
        )
        self._listener = threading.Thread(target=self._listen, args=(messages,), daemon=True)
        self._listener.start()

    def start(self, cell: Cell) -> None:
        self.cell = cell
        line = json.dumps({"kind": cell.kind, "settings": cell.settings, "label": cell.label})
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def exit_status(self) -> int | None:
        return self._process.wait()

    def stop(self) -> None:
        """Ends the process; the next sweep computes its current cell again."""
        self._process.kill()
        self._process.wait()
        self._listener.join()
        self._process.stdin.close()
        self._process.stdout.close()

    def _listen(self, messages: queue.Queue) -> None:
        for line in self._process.stdout:
            messages.put((self, json.loads(line)))
        messages.put((self, None))


def cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0))
