"""All studies, resumably, and one report.

python -m recipes.studies.all --scale small              under six hours on two cores; the same command continues
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
    equal_captions,
    memory,
    multilingual,
    negatives,
    noise,
    starts,
    web_captions,
    weight_decay,
)
from .command import main

# The headline claims first, so that a sweep that is stopped early has them.
STUDIES = (
    batch_size.STUDY,
    bias_init.STUDY,
    web_captions.STUDY,
    noise.STUDY,
    duration.STUDY,
    negatives.STUDY,
    equal_captions.STUDY,
    starts.STUDY,
    multilingual.STUDY,
    bottleneck.STUDY,
    weight_decay.STUDY,
    beta2.STUDY,
    memory.STUDY,
)

if __name__ == "__main__":
    sys.exit(main(STUDIES, "all"))
