"""Another resolution for a trained model, section 4.6: 5 billion more examples, a 100 times smaller learning rate.

    python -m recipes.resolution --synthetic                         any machine, a small run on synthetic data
    python -m recipes.resolution 384 --dry-run                       prints the plan for 32 TPU v4 chips; runs nothing
    python -m recipes.resolution 384 --start gs://bucket/B/checkpoint --data "gs://bucket/{00000..99999}.tar" \\
        --run gs://bucket/B384

Use the last line for TPU hosts (four v4 chips: --set batch=1024 --set topology=v4:2x2x1) and for GPUs. The
devices determine the strategy.

For several machines with GPUs, run the same command on each, with a shared folder for --run and

    TF_CONFIG='{"cluster": {"worker": ["host0:3333", "host1:3333"]}, "task": {"type": "worker", "index": 0}}'

A TPU slice of several hosts (v4-32, v4-64, v5e-16) needs an input process on every host and one coordinator, each with
the options of the single command. A v4-8 has one host and needs neither. See docs/tpu.md.

    python -m tools.tpu_input resolution 384 ...                                          on every host
    TPU_NAME=my-slice TPU_LOAD_LIBRARY=0 python -m recipes.resolution 384 ... \\
        --inputs host0:5050,host1:5050,...                                     on one of them

SETUP is one of

    224    196 patches (Table 3: B 76.3 %)
    384    576 patches

--start is a checkpoint of both towers, one of `recipes.overtrain` or a public one. Its size and its tokenizer are used,
and its position embeddings are resampled.
"""

from __future__ import annotations

import sys
from typing import Any

from ml_collections import ConfigDict

from siglip_tf.experiments import command
from siglip_tf.experiments.config import settings
from siglip_tf.experiments.recipe import NO_DATA, PAIRS, Option, Recipe, from_start

from . import overtrain, siglip

IMAGE_SIZES = {"224": 224, "384": 384}  # "on the target resolutions (i.e. 224 or 384)"
# "using a 100x smaller learning rate without weight decay"
OPTIMIZER = {**siglip.OPTIMIZER, "learning_rate": 1e-3 / 100, "weight_decay": 0.0}
# "we continue training the pre-trained model for 5 billion examples"
RUN: dict[str, Any] = {"batch": 32_768, "duration": "5B examples", "topology": "v4:2x4x4"}


def setup(name: str) -> ConfigDict:
    """Returns the settings for one of `IMAGE_SIZES`, for the Base model unless `start` names another."""
    return settings(
        model={**overtrain.MODEL, **siglip.ON_TPU, "image_size": IMAGE_SIZES[name]},
        optimizer=OPTIMIZER,
        schedule=siglip.SCHEDULE,
        **RUN,
    )


def synthetic(c: ConfigDict) -> None:
    """Changes the settings to a small run that continues the small model of `recipes.siglip` at 96 pixels, not 72."""
    siglip.synthetic(c)
    c.model.image_size = 96
    c.optimizer.learning_rate /= 100
    c.optimizer.scalars_learning_rate = 1.0


def adopt(c: ConfigDict) -> Any:
    """Returns the checkpoint that `start` names, at the resolution of the settings."""
    from siglip_tf.experiments import inputs

    return inputs.whole_start(c, c.model.image_size)


RECIPE = Recipe(
    name="resolution",
    about=__doc__,
    setup=setup,
    setups=IMAGE_SIZES,
    synthetic=synthetic,
    prepare=from_start(adopt, siglip.tiny_checkpoint),
    options={"start": Option("start", "a checkpoint of both towers, in any format"), **PAIRS},
    needs={"start": "No model to start from: name its checkpoint by --start.", "data": NO_DATA},
    adopt=adopt,
)
tpu_subject = RECIPE.subject


if __name__ == "__main__":
    sys.exit(command.main(RECIPE))
