"""All studies, resumably, and one report.

python -m recipes.studies.all --scale small              about an hour on two quiet cores; the same command goes on
python -m recipes.studies.all --scale paper --dry-run    chips, memory and days of every run of the paper
"""

from __future__ import annotations

import sys

from . import (
    batch_size,
    beta2,
    bias_init,
    bottleneck,
    duration,
    memory,
    negatives,
    noise,
    weight_decay,
)
from .command import main

# In the paper's order.
STUDIES = (
    batch_size.STUDY,
    duration.STUDY,
    memory.STUDY,
    bottleneck.STUDY,
    weight_decay.STUDY,
    beta2.STUDY,
    negatives.STUDY,
    bias_init.STUDY,
    noise.STUDY,
)

if __name__ == "__main__":
    sys.exit(main(STUDIES, "all"))
