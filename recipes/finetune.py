"""Fine-tunes a trained model on your own pictures and captions, on one device or many.

    python -m recipes.finetune --synthetic                                   any machine, a small run on synthetic data
    python -m recipes.finetune --start siglip_b16 --data my_pictures         all weights
    python -m recipes.finetune lora --start siglip_b16 --data my_pictures    adapters of a few megabytes
    python -m recipes.finetune whole --start siglip_b16 --data "gs://bucket/{00000..00999}.tar" --dry-run

--start is any checkpoint that this project reads (its own format, big_vision, Hugging Face, KerasHub). Its tokenizer
and its preprocessing are used.

For several machines with GPUs, run the same command on each, with a shared folder for --run and

    TF_CONFIG='{"cluster": {"worker": ["host0:3333", "host1:3333"]}, "task": {"type": "worker", "index": 0}}'

A TPU slice of several hosts (v4-32, v4-64, v5e-16) needs an input process on every host and one coordinator, each with
the options of the single command. A v4-8 has one host and needs neither. See docs/tpu.md.

    python -m tools.tpu_input finetune ...                                          on every host
    TPU_NAME=my-slice TPU_LOAD_LIBRARY=0 python -m recipes.finetune ... \\
        --inputs host0:5050,host1:5050,...                                     on one of them

SETUP is one of

    whole         all weights (the default)
    frozen        only the text tower; the image tower is frozen
    frozen-text   only the image tower
    last          the last two blocks and the head of each tower (tune.last_blocks)
    head          the layers after the last block of each tower
    lora          low-rank adapters of both towers' projections (tune.lora_rank, tune.lora_projections)
    scalars       only the temperature and the bias

The batch, the length, the learning rate, and the warm-up depend on the number of pairs and the width of the model,
unless you set them. The first lines of a run report these choices and the reasons. The report compares the model with
the starting checkpoint.
"""

from __future__ import annotations

import sys
from collections.abc import Collection
from typing import Any

from ml_collections import ConfigDict

from siglip_tf.experiments import command
from siglip_tf.experiments.config import settings
from siglip_tf.experiments.recipe import NO_DATA, PAIRS, Option, Recipe, from_start
from siglip_tf.experiments.schema import AUTO

from . import siglip

SETUPS: dict[str, dict[str, Any]] = {
    "whole": {},
    "frozen": {"image": "frozen"},
    "frozen-text": {"text": "frozen"},
    "last": {"image": "last", "text": "last"},
    "head": {"image": "head", "text": "head"},
    "lora": {"image": "lora", "text": "lora"},
    "scalars": {"image": "frozen", "text": "frozen"},
}
# Settings by the number of pairs. Few pairs need small batches, many epochs, and smaller learning rates for lower
# blocks, whose features are general. Many pairs use the batch of training from scratch, one or two epochs, and the same
# learning rate for all blocks.
BY_PAIRS: list[tuple[int | None, dict[str, Any]]] = [
    (10_000, {"batch": 64, "duration": "20 epochs", "schedule.warmup": "10%", "optimizer.layer_decay": 0.8}),
    (1_000_000, {"batch": 512, "duration": "5 epochs", "schedule.warmup": "5%", "optimizer.layer_decay": 0.9}),
    (None, {"batch": 4_096, "duration": "2 epochs", "schedule.warmup": "2%", "optimizer.layer_decay": 1.0}),
]
# A hundredth of the learning rate for training a Base model (section 4.6 also continues with a hundredth). Smaller
# models use larger rates, about with the square of the width. Adapters start at zero and use ten times the rate.
LEARNING_RATE, BASE_WIDTH = 1e-5, 768
LORA_FACTOR = 10.0
# There is no weight decay, because it would pull trained weights to zero (section 4.5).
OPTIMIZER = {"name": "adamw", "learning_rate": LEARNING_RATE, "weight_decay": 0.0, "beta_2": 0.95}
# Pictures are mirrored unless their caption says left or right. The other changes are so small that captions stay true.
AUGMENT = {"flip": "captions", "crop": 0.8, "color": 0.1}
EVALUATIONS = 10


def setup(name: str) -> ConfigDict:
    """Returns the settings of one of `SETUPS`, for a Base model unless `start` names another size."""
    return settings(
        batch=64,
        duration=AUTO,
        model={**siglip.MODEL, "text_length": 64, "dtype": AUTO},
        optimizer=OPTIMIZER,
        schedule={"name": "cosine", "warmup": "10%"},
        tune=SETUPS[name],
        augment=AUGMENT,
        topology="v4:1x1x1",
        checkpoint_every=500,
        log_every=10,
    )


def synthetic(c: ConfigDict) -> None:
    """Changes the settings to those of a small run that starts from the small model of `recipes.siglip`."""
    siglip.synthetic(c)
    c.augment.update({"flip": "none", "crop": 1.0, "color": 0.0})


def adopt(c: ConfigDict) -> Any:
    """Returns the checkpoint that `start` names."""
    from siglip_tf.experiments import inputs

    return inputs.whole_start(c)


def adapt(c: ConfigDict, named: Collection[str], pairs: int | None) -> list[str]:
    """Sets values that depend on the number of pairs and the model width, except named ones, and explains them."""
    lines = []
    if pairs is not None:
        chosen = next(values for most, values in BY_PAIRS if most is None or pairs <= most)
        for key, value in {**chosen, "batch": min(chosen["batch"], max(2, pairs // 8))}.items():
            if key not in named:
                c.update_from_flattened_dict({key: value})
        lines.append(f"{pairs:,} pairs: batch {c.batch}, {c.duration}, warm-up {c.schedule.warmup}")
    if "optimizer.learning_rate" not in named:
        width = c.model.image_width or _width(c.model.image)
        rate = LEARNING_RATE * (BASE_WIDTH / width) ** 2
        c.optimizer.learning_rate = rate * (LORA_FACTOR if "lora" in (c.tune.image, c.tune.text) else 1.0)
        lines.append(f"Towers of width {width}: learning rate {c.optimizer.learning_rate:.1e}, no weight decay")
    return lines


def _width(name: str) -> int:
    from siglip_tf.models import VARIANTS

    return VARIANTS[name.partition("/")[0]].width


RECIPE = Recipe(
    name="finetune",
    about=__doc__,
    setup=setup,
    setups=SETUPS,
    synthetic=synthetic,
    prepare=from_start(adopt, siglip.tiny_checkpoint, hold_out=True),
    options={"start": Option("start", "the checkpoint of a whole model, in any format"), **PAIRS},
    needs={
        "start": "No model to start from: name its checkpoint by --start, such as a folder of Hugging Face's.",
        "data": NO_DATA,
    },
    adopt=adopt,
    adapt=adapt,
    evaluations=EVALUATIONS,
)
tpu_subject = RECIPE.subject


if __name__ == "__main__":
    sys.exit(command.main(RECIPE))
