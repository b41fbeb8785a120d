"""Scaling up SigLIP by overtraining it, section 4.6: more patches, more tokens, 40 billion examples.

    python -m recipes.overtrain --synthetic                          any machine, a small run on synthetic data
    python -m recipes.overtrain B --dry-run                          prints the plan for 32 TPU v4 chips; runs nothing
    python -m recipes.overtrain B --data "gs://bucket/{00000..99999}.tar" --tokenizer c4_en.model --run gs://bucket/B

Use the last line for TPU hosts (four v4 chips: --set batch=2048 --set topology=v4:2x2x1) and for GPUs. The
devices determine the strategy.

For several machines with GPUs, run the same command on each, with a shared folder for --run and

    TF_CONFIG='{"cluster": {"worker": ["host0:3333", "host1:3333"]}, "task": {"type": "worker", "index": 0}}'

A TPU slice of several hosts (v4-32, v4-64, v5e-16) needs an input process on every host and one coordinator, each with
the options of the single command. A v4-8 has one host and needs neither. See docs/tpu.md.

    python -m tools.tpu_input overtrain B ...                                          on every host
    TPU_NAME=my-slice TPU_LOAD_LIBRARY=0 python -m recipes.overtrain B ... \\
        --inputs host0:5050,host1:5050,...                                     on one of them

SETUP is one of

    B    B/16 with a Base text tower (Table 3: 76.6 % zero-shot on ImageNet)
    L    L/16 with a Large text tower (Table 3: 80.6 %)

`recipes.resolution` continues from its checkpoint at another resolution.
"""

from __future__ import annotations

import sys
from typing import Any

from ml_collections import ConfigDict

from siglip_tf.experiments import command
from siglip_tf.experiments.config import settings
from siglip_tf.experiments.recipe import Recipe

from . import siglip

# "increase the number of image patches from (224/16)^2 = 196 to (256/16)^2 = 256 and the number of text tokens from 16
# to 64"; "the text encoder is kept the same size (B or L respectively)".
MODEL = {**siglip.MODEL, "image_size": 256, "text_length": 64}
# The paper does not say how many chips; with these a chip holds as many pairs as the compiler's report says it can.
SIZES: dict[str, dict[str, Any]] = {
    "B": {"model": {"image": "B/16", "text": "B"}, "topology": "v4:2x4x4"},
    "L": {"model": {"image": "L/16", "text": "L"}, "topology": "v4:4x4x8"},
}
RUN: dict[str, Any] = {
    "batch": 32_768,
    "duration": "40B examples",
}  # "we train both models for 40 billion examples seen"


def setup(name: str) -> ConfigDict:
    """Returns the settings of one of `SIZES`; all others follow "the recipe as described in Section 4.2"."""
    size = SIZES[name]
    return settings(
        model={**MODEL, **siglip.ON_TPU, **size["model"]},
        topology=size["topology"],
        optimizer=siglip.OPTIMIZER,
        schedule=siglip.SCHEDULE,
        **RUN,
    )


RECIPE = Recipe("overtrain", __doc__, setup, SIZES, siglip.synthetic)
tpu_subject = RECIPE.subject


if __name__ == "__main__":
    sys.exit(command.main(RECIPE))
