"""SigLIP from scratch, section 4.2: both towers trained on English image-text pairs with the sigmoid loss.

    python -m recipes.siglip --synthetic                             any machine, a small run on synthetic data
    python -m recipes.siglip 4k --dry-run                            prints the plan for four TPU v4 chips; runs nothing
    python -m recipes.siglip 4k --data "gs://bucket/{00000..09999}.tar" --tokenizer c4_en.model --run gs://bucket/siglip

Use the last line for a TPU host with four v4 chips and for GPUs. The devices determine the strategy.

For several machines with GPUs, run the same command on each, with a shared folder for --run and

    TF_CONFIG='{"cluster": {"worker": ["host0:3333", "host1:3333"]}, "task": {"type": "worker", "index": 0}}'

A TPU slice of several hosts needs an input process on every host and one coordinator (see docs/tpu.md). For v4-32:

    python -m tools.tpu_input siglip 16k --data ... --tokenizer ... --run gs://bucket/siglip          on each of 4 hosts
    TPU_NAME=my-v4-32 TPU_LOAD_LIBRARY=0 python -m recipes.siglip 16k --data ... --tokenizer ... \\
        --run gs://bucket/siglip --inputs host0:5050,host1:5050,host2:5050,host3:5050                 on one of them

A v4-8 has one host: use the first command for four chips, without --inputs. For v4-64, use 32k and eight hosts. For
v5e-16, use 4k with --set batch=8192 and two hosts.

SETUP is one of

    4k     batch 4,096, which four chips hold (section 4.2)
    16k    batch 16,384 on 16 chips
    32k    batch 32,768 on 32 chips, the paper's best (Table 1, last row: 73.4 % zero-shot on ImageNet after 5 days)

Change any setting by --set, for example --set batch=8192 --set model.loss=softmax --set model.init_bias=None. --show
lists the settings.
"""

from __future__ import annotations

import sys
from typing import Any

from ml_collections import ConfigDict

from siglip_tf.experiments import command
from siglip_tf.experiments.config import settings
from siglip_tf.experiments.recipe import Recipe

# Section 4.2: "B/16 ViT for image embeddings and B-sized transformer for text embeddings", 224 x 224 pixels, 16 tokens
# of a vocabulary of 32k trained on English C4. Table 4: t' = log 10 and b = -10.
MODEL = {
    "image": "B/16",
    "text": "B",
    "image_size": 224,
    "text_length": 16,
    "vocab_size": 32_000,
    "init_temperature": 10.0,
    "init_bias": -10.0,
    "tower_norms": True,
}
# These settings are not in the paper. They are fast on a TPU: bfloat16 towers, one attention kernel, a loop over the
# blocks, and recomputing each block in the backward pass, which is faster there than storing parts of it (docs/tpu.md).
ON_TPU = {"dtype": "mixed_bfloat16", "attention": "fused", "scan_layers": True, "remat": "block"}
# Section 4: "We use the ScalingViT-Adafactor optimizer by default"; section 4.7: beta_2 = 0.95. The peak learning rate
# and weight decay are the reference implementation's.
OPTIMIZER = {"name": "adafactor", "learning_rate": 1e-3, "weight_decay": 1e-4, "beta_2": 0.95, "clip": 1.0}
# Cosine to 0 (section 4.4). The paper's warm-up is 10 % of 65k steps for SigLiT; LiT's 10,000 steps are used here.
SCHEDULE = {"name": "cosine", "warmup": "10k steps"}
DURATION = "9B examples"  # figure 2, middle

BATCHES: dict[str, dict[str, Any]] = {
    "4k": {"batch": 4_096, "topology": "v4:2x2x1"},
    "16k": {"batch": 16_384, "topology": "v4:2x2x4"},
    "32k": {"batch": 32_768, "topology": "v4:2x4x4"},
}

# A small run on synthetic scenes: a patch is as large as a cell of their 3 x 3 grid. The bias starts near the prior of
# a batch of 32, log(1 / 31) = -3.4; a few hundred steps are too few to move it from -10.
TINY_MODEL = {
    "image": "Ti/24",
    "image_size": 72,
    "image_width": 64,
    "image_depth": 2,
    "image_mlp_dim": 256,
    "image_heads": 2,
    "text": "Ti",
    "text_length": 16,
    "text_width": 64,
    "text_depth": 2,
    "text_mlp_dim": 256,
    "text_heads": 2,
    "init_bias": -4.0,
}
OFF_TPU = {"dtype": "float32", "attention": "einsum", "scan_layers": False, "remat": "none"}


def setup(name: str) -> ConfigDict:
    """Returns the settings of one of `BATCHES`."""
    return settings(
        duration=DURATION, model={**MODEL, **ON_TPU}, optimizer=OPTIMIZER, schedule=SCHEDULE, **BATCHES[name]
    )


def synthetic(c: ConfigDict, steps: int = 300) -> None:
    """Changes the settings to those of a small run on synthetic data: about a minute on two cores."""
    for key, value in {**TINY_MODEL, **OFF_TPU}.items():
        c.model[key] = value
    c.batch = 32
    c.duration = f"{steps} steps"
    c.topology = "v4:1x1x1"
    c.schedule.warmup = "10%"
    c.optimizer.learning_rate = 2e-3
    c.optimizer.scalars_learning_rate = 10.0  # in a short run, t and b must change fast
    c.checkpoint_every = 100
    c.log_every = 10


def tiny_checkpoint(c: ConfigDict, folder: str, steps: int = 200) -> str:
    """Trains this recipe's small model in a folder, unless that is done already, and returns its checkpoint.

    Recipes that start from trained weights start from these when they run on synthetic data.

    Raises:
        ValueError: the training did not finish.
    """
    print(f"First a tiny model to start from, in {folder}:", flush=True)
    values = ["--set", f"seed={c.seed}", "--set", f"duration={steps} steps"]
    if command.main(RECIPE, ["--synthetic", "--run", folder, *values]):
        raise ValueError(f"The tiny model in {folder} was not trained to its end.")
    return f"{folder}/checkpoint"


RECIPE = Recipe("siglip", __doc__, setup, BATCHES, synthetic)
tpu_subject = RECIPE.subject


if __name__ == "__main__":
    sys.exit(command.main(RECIPE))
