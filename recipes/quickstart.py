"""A whole run on this machine: data, training, evaluation, export, report; about five minutes on two cores.

    make quickstart                                     drawn scenes, evaluated on compositions never trained on
    make quickstart DATA=folder                         own pictures: image files with a table of captions, or classes
    make quickstart ARGS="--steps 200"                  shorter; the same command again continues, or says it is done
    python -m recipes.quickstart --help

For own pictures the length follows the data, and so does the size of pictures and patches. The report in the run's
folder says how good the model is beside a baseline, and what to try next.
"""

from __future__ import annotations

import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from siglip_tf.experiments import command
from siglip_tf.experiments.config import settings
from siglip_tf.experiments.recipe import Option, Recipe
from siglip_tf.experiments.schema import AUTO

# Two towers of four and two blocks, small enough for two CPU cores. The bias starts near the prior of a batch of 64,
# log(1 / 63) = -4.1; the paper's -10 is that of a batch of 22,000.
MODEL = {
    "image": "Ti/8",
    "image_size": 64,
    "image_width": 128,
    "image_depth": 4,
    "image_mlp_dim": 512,
    "image_heads": 4,
    "text": "Ti",
    "text_length": 24,
    "text_width": 128,
    "text_depth": 2,
    "text_mlp_dim": 512,
    "text_heads": 4,
    "init_bias": -5.0,
}
# The drawn scenes stand on a 3 x 3 grid: a patch is as large as one of its places, and none of them is ever cut.
SCENES = {"image": "Ti/24", "image_size": 72}
BATCH = 64
# Some hundred steps are few for t and b to leave their initial values, which suit long runs: they learn ten times as
# fast. beta_2 is the paper's (section 4.7).
OPTIMIZER = {
    "name": "adamw",
    "learning_rate": 2e-3,
    "weight_decay": 1e-4,
    "beta_2": 0.95,
    "scalars_learning_rate": 10.0,
}
# A few thousand pictures are seen dozens of times: small changes keep the model from learning them by heart. None of
# them makes a caption untrue; pictures are not mirrored, since writing, clocks and "left" would be.
AUGMENT = {"shift": 0.1, "scale": 0.2, "rotate": 10.0, "color": 0.3}

SYNTHETIC_STEPS = 1200
# Of own pictures: so many passes over the data, but no fewer and no more than these steps (about 4 to 12 minutes).
PASSES = 60
LEAST_STEPS, MOST_STEPS = 1_200, 3_600
VOCABULARY = 4_000
SCENES_EVALUATED = 1_000
EVALUATIONS = 5


def setup(name: str) -> ConfigDict:
    """The settings; there is one setup, "small"."""
    return settings(
        batch=BATCH,
        duration=AUTO,
        model={**MODEL, "vocab_size": VOCABULARY},
        optimizer=OPTIMIZER,
        schedule={"name": "cosine", "warmup": "10%"},
        augment=AUGMENT,
        checkpoint_every=250,
        log_every=10,
    )


def synthetic(c: ConfigDict) -> None:
    """Makes the settings those of a run on drawn scenes."""
    c.model.update(SCENES)
    c.augment.update(dict.fromkeys(AUGMENT, 0.0))
    c.duration = f"{SYNTHETIC_STEPS} steps"


def prepare(c: ConfigDict, folder: str, is_synthetic: bool) -> Any:
    """Pairs with a part held out, and a vocabulary of their captions."""
    from siglip_tf.experiments import inputs

    return inputs.pairs(c, folder, is_synthetic, own_vocabulary=True, hold_out=True, scenes_held_out=SCENES_EVALUATED)


def adapt(c: ConfigDict, named: Collection[str], pairs: int | None) -> list[str]:
    """Chooses the length by the number of pairs, unless it was named."""
    if c.duration != AUTO:
        return []
    c.duration = f"{steps_for(pairs, c.batch)} steps"
    return [f"{pairs:,} pairs: {c.duration}; --steps takes another number"]


def steps_for(pairs: int, batch: int) -> int:
    """How long to train on so many pairs."""
    return round(min(MOST_STEPS, max(LEAST_STEPS, PASSES * pairs / batch)))


RECIPE = Recipe(
    name="quickstart",
    about=__doc__,
    setup=setup,
    setups=("small",),
    synthetic=synthetic,
    prepare=prepare,
    adapt=adapt,
    evaluations=EVALUATIONS,
    options={
        "data": Option("data", "own pictures with captions, in place of the drawn scenes"),
        "steps": Option("duration", "training steps of the whole run", "{} steps"),
        "batch": Option("batch", f"pairs per step ({BATCH})"),
        "learning-rate": Option("optimizer.learning_rate", f"at its peak ({OPTIMIZER['learning_rate']})"),
        "seed": Option("seed", "of data, weights and order (0)"),
    },
    needs={},
    synthetic_by_default=True,
    may_change=("duration",),
    ask_saved_model=str(Path(__file__).with_name("ask_saved_model.py")),
)


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    return command.main(RECIPE, argv)


if __name__ == "__main__":
    sys.exit(main())
