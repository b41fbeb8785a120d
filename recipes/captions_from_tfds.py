"""Trains a small SigLIP on COCO's captions from TensorFlow Datasets. This is not a run of the paper.

    python -m recipes.captions_from_tfds --synthetic                 any machine, a small run on synthetic data
    python -m recipes.captions_from_tfds --dry-run                   prints the plan; downloads and runs nothing
    python -m recipes.captions_from_tfds                             downloads COCO (20 GB) and trains; use a GPU
    python -m recipes.captions_from_tfds --data tfds:NAME            any TFDS data set with images and texts

Use the last two for one GPU, for four TPU v4 chips, or for a CPU, which is slow. The devices determine the strategy.

For several machines with GPUs, run the same command on each, with a shared folder for --run and

    TF_CONFIG='{"cluster": {"worker": ["host0:3333", "host1:3333"]}, "task": {"type": "worker", "index": 0}}'

A TPU slice of several hosts (v4-32, v4-64, v5e-16) needs an input process on every host and one coordinator, each with
the options of the single command. A v4-8 has one host and needs neither. See docs/tpu.md.

    python -m tools.tpu_input captions_from_tfds ...                                          on every host
    TPU_NAME=my-slice TPU_LOAD_LIBRARY=0 python -m recipes.captions_from_tfds ... \\
        --inputs host0:5050,host1:5050,...                                     on one of them

This recipe needs tensorflow-datasets: pip install 'siglip-tf[data]'. The tokenizer is trained on the captions. To
evaluate the model, see

    python -m tools.evaluate runs/captions_from_tfds-coco/checkpoint --help
"""

from __future__ import annotations

import sys
from typing import Any

from ml_collections import ConfigDict

from siglip_tf.experiments import command
from siglip_tf.experiments.config import settings
from siglip_tf.experiments.recipe import PAIRS, Option, Recipe

from . import siglip

DATA = "tfds:coco_captions"
EXAMPLES = 82_783  # images in the training split, with five captions each
# Small towers suit few pictures. The loss, t', and b are the paper's. A batch of 1,024 fits one GPU.
MODEL = {
    "image": "S/16",
    "text": "S",
    "image_size": 224,
    "text_length": 32,
    "vocab_size": 8_000,
    "init_temperature": 10.0,
    "init_bias": -10.0,
    "dropout": 0.1,
    "tower_norms": True,
    "dtype": "mixed_bfloat16",
}
RUN: dict[str, Any] = {"batch": 1_024, "duration": "60 epochs", "topology": "v4:2x2x1", "checkpoint_every": 500}


def setup(name: str) -> ConfigDict:
    """Returns the settings of the only setup, "coco"."""
    return settings(
        model=MODEL,
        optimizer=siglip.OPTIMIZER,
        schedule={"name": "cosine", "warmup": "10%"},
        data=DATA,
        split="train",
        **RUN,
    )


def synthetic(c: ConfigDict) -> None:
    """Changes the settings to those of a small run on synthetic data."""
    siglip.synthetic(c)
    c.model.dropout = 0.0


def size(c: ConfigDict) -> int:
    """Returns the number of training images. For COCO it is known, so that a plan needs no download."""
    from siglip_tf.experiments import build

    return EXAMPLES if (c.data, c.split) == (DATA, "train") else build.open_data(c).size


def prepare(c: ConfigDict, folder: str, is_synthetic: bool) -> Any:
    """Returns the pairs of the data set, with a tokenizer that is trained on its captions."""
    from siglip_tf.experiments import inputs

    return inputs.pairs(c, folder, is_synthetic, own_vocabulary=True)


RECIPE = Recipe(
    name="captions_from_tfds",
    about=__doc__,
    setup=setup,
    setups=("coco",),
    synthetic=synthetic,
    prepare=prepare,
    options={**PAIRS, "split": Option("split", "of the data set (train)")},
    size=size,
)
tpu_subject = RECIPE.subject


if __name__ == "__main__":
    sys.exit(command.main(RECIPE))
