"""The paper's studies, one command each: `python -m recipes.studies.NAME`, or `.all` for every one of them.

    python -m recipes.studies.all --scale small             everything on this machine; the same command continues
    python -m recipes.studies.bias_init --seeds 5            one study, more seeds
    python -m recipes.studies.batch_size --scale paper --dry-run

A study is a set of cells (`cell.py`). A cell is computed once and stored under a digest of its settings and source.
"""

from . import kinds

__all__ = ["kinds"]  # imported here, since it registers the kinds of cells
