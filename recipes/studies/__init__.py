"""The paper's studies, one command each: `python -m recipes.studies.NAME`, or `.all` for every one of them.

    python -m recipes.studies.all --scale small             everything on this machine; the same command goes on
    python -m recipes.studies.bias_init --seeds 5            one study, more seeds
    python -m recipes.studies.batch_size --scale paper --dry-run

A study is a set of cells (`sweep.py`); a cell is trained once and kept by what it consists of.
"""
