"""A worker whose cells cost nothing but sleep, and a sweep of them.

python -m tests.recipes.studies.light ROOT CELLS WORKERS
"""

import sys
import time
from pathlib import Path

from recipes.studies import sweep
from recipes.studies.cell import KINDS, Cell, Kind

MODULE = "tests.recipes.studies.light_worker"


def _compute(settings, folder, _root):
    with open(folder / "begun", "a") as file:
        file.write("x")
    if settings.get("fails"):
        raise ValueError("this cell is meant to fail")
    time.sleep(settings["sleep"])
    return {"value": 2 * settings["number"]}


def _needs(settings):
    return [light(settings["after"])] if "after" in settings else []


LIGHT = Kind((), _compute, _needs, lambda settings: settings["sleep"], lambda result: f"value {result['value']}")


def register():
    KINDS["light"] = LIGHT


def light(number, sleep=0.05, **more):
    return Cell("light", {"number": number, "sleep": sleep, **more}, f"cell {number}")


if __name__ == "__main__":
    register()
    root, count, workers = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    sweep.run([light(i, 0.3) for i in range(count)], root, workers, lambda text: print(text, flush=True), MODULE)
    sys.exit(0)
