"""Trains mSigLIP (section 4.3) on pairs in over 100 languages, with a large vocabulary and a token bottleneck.

    python -m recipes.msiglip --synthetic                            any machine, synthetic data in five languages
    python -m recipes.msiglip k96 --dry-run                          prints the plan for 32 TPU v4 chips; runs nothing
    python -m recipes.msiglip k96 --data "gs://bucket/{00000..99999}.tar" --tokenizer mc4.model --run gs://bucket/k96

Use the last line for TPU hosts (four v4 chips: --set batch=4096 --set topology=v4:2x2x1) and for GPUs. The devices
determine the strategy.

For several machines with GPUs, run the same command on each, with a shared folder for --run and

    TF_CONFIG='{"cluster": {"worker": ["host0:3333", "host1:3333"]}, "task": {"type": "worker", "index": 0}}'

A TPU slice of several hosts (v4-32, v4-64, v5e-16) needs an input process on every host and one coordinator, each with
the options of the single command. A v4-8 has one host and needs neither. See docs/tpu.md.

    python -m tools.tpu_input msiglip k96 ...                                          on every host
    TPU_NAME=my-slice TPU_LOAD_LIBRARY=0 python -m recipes.msiglip k96 ... \\
        --inputs host0:5050,host1:5050,...                                     on one of them

SETUP is one of

    k96      250k tokens through a bottleneck of K = 96, 30B examples: the paper's scaled-up run (Table 2)
    full     250k tokens in a full table, 900M examples: the baseline for the bottleneck
    small    32k multilingual tokens, 900M examples: the baseline for the large vocabulary

To train a tokenizer on your own captions: python -m tools.train_tokenizer --help
"""

from __future__ import annotations

import sys
from typing import Any

from ml_collections import ConfigDict

from siglip_tf.experiments import command
from siglip_tf.experiments.config import settings
from siglip_tf.experiments.recipe import Recipe

from . import siglip

# "a small multilingual vocabulary with 32k tokens, and a large multilingual vocabulary with 250k tokens"; "enabling the
# bottleneck of size K = 96 for Base architecture with W = 768". "900M total examples" for the comparisons, "30 billion
# examples" for the run.
VOCABULARIES: dict[str, dict[str, Any]] = {
    "k96": {"model": {"vocab_size": 250_000, "token_bottleneck": 96}, "duration": "30B examples"},
    "full": {"model": {"vocab_size": 250_000}, "duration": "900M examples"},
    "small": {"model": {"vocab_size": 32_000}, "duration": "900M examples"},
}
# "A batch size of 32k is sufficient for a multilingual setup as well."
BATCH: dict[str, Any] = {"batch": 32_768, "topology": "v4:2x4x4"}


def setup(name: str) -> ConfigDict:
    """Returns the settings of one of `VOCABULARIES`. Towers, optimizer, and schedule are those of section 4.2."""
    choice = VOCABULARIES[name]
    return settings(
        model={**siglip.MODEL, **siglip.ON_TPU, **choice["model"]},
        duration=choice["duration"],
        optimizer=siglip.OPTIMIZER,
        schedule=siglip.SCHEDULE,
        **BATCH,
    )


def synthetic(c: ConfigDict) -> None:
    """Changes the settings to those of a small run on synthetic data in five languages. It keeps a bottleneck."""
    siglip.synthetic(c)
    c.languages = 5
    if c.model.token_bottleneck:
        c.model.token_bottleneck = 16


RECIPE = Recipe("msiglip", __doc__, setup, VOCABULARIES, synthetic)
tpu_subject = RECIPE.subject


if __name__ == "__main__":
    sys.exit(command.main(RECIPE))
