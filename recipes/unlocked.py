"""SigLIP with a pre-trained, unlocked image tower, section 4.5: small learning rate and no decay on what is trained.

    python -m recipes.unlocked --synthetic                           this machine, a tiny run on drawn scenes
    python -m recipes.unlocked --dry-run                             the plan for 16 TPU v4 chips; nothing runs
    python -m recipes.unlocked --start augreg_b16.npz --data "gs://bucket/{00000..09999}.tar" \\
        --tokenizer c4_en.model --run gs://bucket/unlocked

Use the last line for TPU hosts (four v4 chips: --set batch=4096 --set topology=v4:2x2x1) and for GPUs; the
strategy follows from the devices.

Several machines with GPUs: the same command on each, with a shared folder for --run and

    TF_CONFIG='{"cluster": {"worker": ["host0:3333", "host1:3333"]}, "task": {"type": "worker", "index": 0}}'

A TPU slice of several hosts (v4-32, v4-64, v5e-16) takes an input process on every host and one coordinator, each with
the options of the single command. A v4-8 is one host and needs neither; see docs/tpu.md.

    python -m tools.tpu_input unlocked ...                                          on every host
    TPU_NAME=my-slice TPU_LOAD_LIBRARY=0 python -m recipes.unlocked ... \\
        --inputs host0:5050,host1:5050,...                                     on one of them

SETUP is one of

    no_decay  the paper's recipe: weight decay on the text tower alone (Table 1, row 3: 71.0 %, 16 chips, 3 days)
    decay     weight decay on both towers, "barely better than the from-scratch baseline" (figure 4)
    locked    the image tower gets no gradient pass at all

The from-scratch baseline of figure 4: python -m recipes.siglip 16k --set duration="2.4B examples"
"""

from __future__ import annotations

import sys
from typing import Any

from ml_collections import ConfigDict

from siglip_tf.experiments import command
from siglip_tf.experiments.config import settings
from siglip_tf.experiments.recipe import NO_DATA, PAIRS, Option, Recipe, from_start

from . import siglip

# "the public and unlocked ViT-Augreg-B/16 model": its class token is what it is pooled by.
MODEL = {**siglip.MODEL, "image_pool": "tok"}
# "In all the experiments, we apply a 0.1 learning rate multiplier to the pre-trained image tower"; "we also propose
# disabling weight decay on the pre-trained weights ... only applied to the randomly initialized weights in the text
# model".
IMAGE_TOWER: dict[str, dict[str, Any]] = {
    "no_decay": {"image_learning_rate": 0.1, "image_decay": 0.0},
    "decay": {"image_learning_rate": 0.1, "image_decay": 1.0},
    "locked": {"freeze_image": True},
}
# "We used 16 TPU-v4 chips and train at 16k batch size for 2.4B examples seen."
RUN: dict[str, Any] = {"batch": 16_384, "duration": "2.4B examples", "topology": "v4:2x2x4"}


def setup(name: str) -> ConfigDict:
    """The settings of one of `IMAGE_TOWER`."""
    return settings(
        model={**MODEL, **siglip.ON_TPU},
        optimizer={**siglip.OPTIMIZER, **IMAGE_TOWER[name]},
        schedule=siglip.SCHEDULE,
        **RUN,
    )


def synthetic(c: ConfigDict) -> None:
    """Makes the settings those of a tiny run that starts from `recipes.siglip`'s tiny image tower."""
    siglip.synthetic(c)
    c.model.image_pool = "map"


def adopt(c: ConfigDict) -> Any:
    """The image tower that `start` names."""
    from siglip_tf.experiments import inputs

    return inputs.image_start(c)


RECIPE = Recipe(
    name="unlocked",
    about=__doc__,
    setup=setup,
    setups=IMAGE_TOWER,
    synthetic=synthetic,
    prepare=from_start(adopt, siglip.tiny_checkpoint),
    options={"start": Option("start", "the checkpoint of the image tower: AugReg npz, or any that holds one"), **PAIRS},
    needs={
        "start": "No image tower to start from: name its checkpoint by --start, such as AugReg's B_16.npz.",
        "data": NO_DATA,
    },
    adopt=adopt,
)
tpu_subject = RECIPE.subject


if __name__ == "__main__":
    sys.exit(command.main(RECIPE))
