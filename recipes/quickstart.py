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

# Own pictures: a few thousand of them are learned by many passes, so a step must be cheap. The image tower begins as
# oriented gradients in 8 x 8 cells (siglip_tf/experiments/first_weights): that needs a head for each of the 16 patches,
# and units for all pixels of one. The text tower begins as a sum over its tokens; names need a small one. `text_length`
# is the most; captions that need less get less.
MODEL = {
    "image": "Ti/8",
    "image_size": 32,
    "image_width": 256,
    "image_depth": 1,
    "image_mlp_dim": 512,
    "image_heads": 16,
    "text": "Ti",
    "text_length": 64,
    "text_width": 256,
    "text_depth": 1,
    "text_mlp_dim": 256,
    "text_heads": 4,
    "init_bias": -5.0,
    # Twins in a batch are no negatives: several pictures of one thing have one caption.
    "equal_captions": "ignore",
}
# From so many pairs on there is enough to learn details and sentences from.
MANY_PAIRS = 20_000
LARGE = {
    "image": "Ti/16",
    "image_size": 64,
    "image_width": 128,
    "image_depth": 4,
    "image_heads": 4,
    "text_width": 128,
    "text_depth": 2,
    "text_mlp_dim": 512,
    "text_heads": 4,
}
# Large batches have more negatives, and their products fill the processor better. Few pairs get smaller ones.
BATCH, LEAST_BATCH = 256, 16
# Some hundred steps are few for t and b to leave their initial values, which suit long runs: they learn ten times as
# fast. Both towers begin near a solution, and the image tower, which is nearer to it, learns at a fifth of the rate.
# beta_2 is the paper's (section 4.7).
OPTIMIZER = {
    "name": "adamw",
    "learning_rate": 5e-4,
    "weight_decay": 1e-4,
    "beta_2": 0.95,
    "scalars_learning_rate": 10.0,
    "image_learning_rate": 0.2,
}
# A few thousand pictures are seen many times: small changes keep the model from learning them by heart. None of
# them makes a caption untrue; pictures are not mirrored, since writing, clocks and "left" would be.
AUGMENT = {"shift": 0.1, "scale": 0.2, "rotate": 10.0, "color": 0.3}
# So many passes over the data, but no fewer and no more than these steps, at two to four a second on two idle cores.
# More passes did not help: emoji of a vendor that was held out are found as often after 20 passes as after 100.
PASSES = 40
LEAST_STEPS, MOST_STEPS = 500, 3_000
VOCABULARY = 4_000

# The drawn scenes stand on a 3 x 3 grid: a patch is as large as one of its places, and none of them is ever cut. Their
# captions are sentences. The bias starts near the prior of a batch of 64, log(1 / 63) = -4.1.
SCENES = {
    "image": "Ti/24",
    "image_size": 72,
    "image_width": 128,
    "image_depth": 4,
    "image_heads": 4,
    "text_length": 24,
    "text_width": 128,
    "text_depth": 2,
    "text_mlp_dim": 512,
    "text_heads": 4,
    "equal_captions": "negative",
}
SCENES_BATCH, SCENES_STEPS = 64, 1200
# Of a model whose weights all begin at random.
LEARNING_RATES = {"optimizer.learning_rate": 2e-3, "optimizer.image_learning_rate": 1.0}
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
        image_alpha="white",
        checkpoint_every=250,
        log_every=10,
    )


def synthetic(c: ConfigDict) -> None:
    """Makes the settings those of a run on drawn scenes."""
    c.model.update(SCENES)
    c.augment.update(dict.fromkeys(AUGMENT, 0.0))
    c.update_from_flattened_dict(LEARNING_RATES)
    c.batch = SCENES_BATCH
    c.duration = f"{SCENES_STEPS} steps"


def shape(c: ConfigDict, named: Collection[str], pairs: int) -> list[str]:
    """Chooses what the model and the batch depend on the number of pairs for, unless it was named."""
    batch = min(BATCH, max(LEAST_BATCH, pairs // 8))
    chosen: dict[str, Any] = {"batch": batch}
    if pairs >= MANY_PAIRS:
        chosen |= {f"model.{key}": value for key, value in LARGE.items()} | LEARNING_RATES
    for key, value in chosen.items():
        if key not in named:
            c.update_from_flattened_dict({key: value})
    return [f"{pairs:,} pairs: {c.model.image} on pictures of {c.model.image_size} pixels, batch {c.batch}"]


def prepare(c: ConfigDict, folder: str, is_synthetic: bool) -> Any:
    """Pairs with a part held out, and a vocabulary of their captions."""
    from siglip_tf.experiments import inputs

    return inputs.pairs(
        c,
        folder,
        is_synthetic,
        own_vocabulary=True,
        fit_text=not is_synthetic,
        fit_patches=not is_synthetic,
        keep_pictures=not is_synthetic,
        hold_out=True,
        scenes_held_out=SCENES_EVALUATED,
    )


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
    shape=shape,
    adapt=adapt,
    evaluations=EVALUATIONS,
    options={
        "data": Option("data", "own pictures with captions, in place of the drawn scenes"),
        "steps": Option("duration", "training steps of the whole run", "{} steps"),
        "batch": Option("batch", f"pairs per step ({BATCH}; drawn scenes {SCENES_BATCH})"),
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
