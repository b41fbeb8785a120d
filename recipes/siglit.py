"""SigLiT, sections 4.1 and 4.4: a frozen image tower's stored embeddings, and a text tower trained from scratch.

    python -m recipes.siglit --synthetic                             any machine, a small run on synthetic data
    python -m recipes.siglit b8 --dry-run                            prints the plan for four TPU v4 chips; runs nothing

Compute the embeddings once, on any machine, and use them for any number of runs:

    python -m tools.precompute_embeddings augreg_b8.npz "shards/{00000..09999}.tar" embeddings \\
        --tokenizer c4_en.model --text-length 16
    python -m recipes.siglit b8 --data embeddings --tower augreg_b8.npz --tokenizer c4_en.model --run runs/siglit

Use the last line for this machine, for a TPU host with four v4 chips and for GPUs.

For several machines with GPUs, run the same command on each, with a shared folder for --run and

    TF_CONFIG='{"cluster": {"worker": ["host0:3333", "host1:3333"]}, "task": {"type": "worker", "index": 0}}'

A TPU slice of several hosts (v4-32, v4-64, v5e-16) needs an input process on every host and one coordinator, each with
the options of the single command. A v4-8 has one host and needs neither. See docs/tpu.md.

    python -m tools.tpu_input siglit b8 ...                                          on every host
    TPU_NAME=my-slice TPU_LOAD_LIBRARY=0 python -m recipes.siglit b8 ... \\
        --inputs host0:5050,host1:5050,...                                     on one of them

SETUP is one of

    b8       AugReg B/8 with a Large text tower of 12 layers, batch 32k, 65k steps (Table 1, row 1: 79.7 %, one day)
    g14      ViT-g/14 with a Large text tower, batch 20k, 107k steps (Table 1, row 2: 84.5 %, two days)
    million  a Base text tower on g/14's embeddings, batch one million, 18B examples (section 4.1, figure 2, left)

With --tower, the recipe joins the trained text tower and the frozen image tower in one checkpoint at the end.
"""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

from ml_collections import ConfigDict

from siglip_tf.experiments import command
from siglip_tf.experiments.config import set_value, settings
from siglip_tf.experiments.recipe import Option, Recipe

from . import siglip

# Section 4.4 trains as section 4.1 does: 16 tokens, the C4 vocabulary, and no image tower in the loop.
MODEL = {
    "image": None,
    "text_length": 16,
    "vocab_size": 32_000,
    "init_temperature": 10.0,
    "init_bias": -10.0,
    "tower_norms": True,
}
# The width of a tower's embeddings, and the text tower that goes with it.
TOWERS = {
    "b8": {"embed_dim": 768, "text": "L*"},  # "a Large Transformer, but with a depth of only 12 layers"
    "g14": {"embed_dim": 1408, "text": "L"},
    "million": {"embed_dim": 1408, "text": "B", "microbatch_size": 8_192},
}
# Section 4.4: "trained using the LION optimizer with decoupled weight decay 1e-7", peak 1e-4; section 4.7: beta_2 0.95.
LION = {"name": "lion", "learning_rate": 1e-4, "weight_decay": 1e-7, "beta_1": 0.9, "beta_2": 0.95, "clip": 1.0}
# Section 4.1 uses the default optimizer of section 4.
ADAFACTOR = siglip.OPTIMIZER
RUNS: dict[str, dict[str, Any]] = {
    # "linearly warm-up of learning rate over 6.5k steps up to a peak of 1e-4, followed by a cosine decay to 0 ... a
    # total of 65 000 steps with a batch size of 32k"
    "b8": {"batch": 32_768, "duration": "65k steps", "optimizer": LION, "warmup": "6.5k steps"},
    # "at 20k batch size on four chips for 107k steps"; the warm-up in proportion
    "g14": {"batch": 20_480, "duration": "107k steps", "optimizer": LION, "warmup": "10%"},
    "million": {"batch": 1_048_576, "duration": "18B examples", "optimizer": ADAFACTOR, "warmup": "10%"},
}
SYNTHETIC_SCENES = 2_048
NO_DATA = "Nothing to train on: name a folder that tools.precompute_embeddings wrote by --data."


def setup(name: str) -> ConfigDict:
    """Returns the settings of one of `RUNS`."""
    run = dict(RUNS[name])
    schedule = {"name": "cosine", "warmup": run.pop("warmup")}
    model = {**MODEL, **siglip.ON_TPU, **TOWERS[name]}
    return settings(model=model, schedule=schedule, topology="v4:2x2x1", **run)


def synthetic(c: ConfigDict, steps: int = 300) -> None:
    """Changes the settings to a small run: the tiny image tower of `recipes.siglip`, frozen, and a new text tower."""
    lion = c.optimizer.name == "lion"
    siglip.synthetic(c, steps)
    for key in siglip.TINY_MODEL:
        if key.startswith("image_") and key != "image_size":
            c.model[key] = None
    c.model.image = None
    c.model.embed_dim = siglip.TINY_MODEL["image_width"]
    c.model.microbatch_size = None
    c.batch = 64
    c.optimizer.learning_rate = 3e-4 if lion else 2e-3


def size(c: ConfigDict) -> int:
    """How many images are stored."""
    from siglip_tf.data import StoredEmbeddings

    return StoredEmbeddings(c.data).size


def prepare(c: ConfigDict, folder: str, is_synthetic: bool) -> Any:
    """Stored embeddings, checked against tower and tokenizer where these are named.

    Raises:
        ValueError: they are another tower's or tokenizer's, or groups are named, which they do not hold.
    """
    from siglip_tf.data import EmbeddingData, StoredEmbeddings
    from siglip_tf.experiments import inputs
    from siglip_tf.experiments.held_out import held_out_part
    from siglip_tf.experiments.inputs import Prepared

    if c.group:
        raise ValueError(
            f"Expected no group with stored embeddings, which hold no groups. Received: group={c.group}. "
            "--set model.equal_captions=ignore leaves out pairs of equal captions."
        )
    if is_synthetic:
        _embed_scenes(c, folder)
    stored = StoredEmbeddings(c.data)
    set_value(c, "model.embed_dim", stored.embed_dim)
    if stored.text_length != c.model.text_length:
        raise ValueError(
            f"{c.data} holds texts of {stored.text_length} tokens, the model reads {c.model.text_length}: precompute "
            f"them with --text-length {c.model.text_length}, or set model.text_length={stored.text_length}."
        )
    preprocessing, finish = None, None
    if c.tower:
        preprocessing, finish = _joining(c, stored)
    return Prepared(
        lambda: EmbeddingData(stored, c.batch, seed=c.seed, streams=c.streams),
        preprocessing,
        stored.size,
        finish=finish,
        held_out=held_out_part(c, True, inputs.SCENES_HELD_OUT) if is_synthetic and finish else None,
    )


def _joining(c: ConfigDict, stored: Any) -> tuple[Any, Any]:
    """The frozen tower's preprocessing with the texts', and how both towers become one checkpoint."""
    from pathlib import Path

    from siglip_tf import checkpoints
    from siglip_tf.data import tower_fingerprint
    from siglip_tf.experiments import build, inputs

    tower = checkpoints.read(c.tower)
    image = {name: array for name, array in tower.weights.items() if name.startswith("image/")}
    if not image:
        raise ValueError(f"Expected a checkpoint with an image tower. {c.tower} has none.")
    proto = Path(c.tokenizer).read_bytes() if c.tokenizer else tower.tokenizer
    if proto is None:
        raise ValueError(f"{c.tower} does not say how texts become tokens: name the --tokenizer of {c.data}.")
    preprocessing = build.build_preprocessing(c, build.build_tokenizer(c, proto, tower), tower)
    stored.check(tower_fingerprint(image), preprocessing)

    def finish(model: Any, path: str) -> None:
        text = model.to_checkpoint()
        of_image = {key: tower.architecture[key] for key in inputs.IMAGE if key in tower.architecture}
        architecture = {**text.architecture, **of_image}
        whole = dataclasses.replace(text, architecture=architecture, weights={**image, **text.weights})
        checkpoints.write(path, whole)

    return preprocessing, finish


def _embed_scenes(c: ConfigDict, folder: str) -> None:
    """Trains a tiny image tower and stores what it makes of some scenes; sets `data`, `tower` and `tokenizer`."""
    import tensorflow as tf

    import siglip_tf
    from siglip_tf.data import EmbeddingWriter, StoredEmbeddings, tower_fingerprint
    from siglip_tf.experiments import build

    if not c.tower:
        c.tower = siglip.tiny_checkpoint(c, f"{folder}/image_tower")
    model = siglip_tf.SigLIP.from_checkpoint(c.tower, verbose=False)
    preprocessing = model.preprocessing
    encode = tf.function(lambda pixels: model.encode_image(preprocessing.image.normalize(pixels)))
    c.data = f"{folder}/embeddings"
    set_value(c, "model.vocab_size", preprocessing.text.vocab_size)
    set_value(c, "model.image_size", model.image_size[0])
    writer = EmbeddingWriter(
        c.data,
        build.scenes(c, size=SYNTHETIC_SCENES),
        preprocessing,
        encode,
        tower=tower_fingerprint({n: w for n, w in model.named_weights().items() if n.startswith("image/")}),
        embed_dim=model.embed_dim,
        batch_size=64,
    )
    stored: StoredEmbeddings = writer.run()
    print(f"{stored.size:,} embeddings of {stored.embed_dim} in {c.data}", flush=True)


RECIPE = Recipe(
    name="siglit",
    about=__doc__,
    setup=setup,
    setups=RUNS,
    synthetic=synthetic,
    prepare=prepare,
    options={
        "data": Option("data", "a folder of stored embeddings, from tools.precompute_embeddings"),
        "tower": Option("tower", "the checkpoint of their image tower, to join it with the text tower at the end"),
        "tokenizer": Option("tokenizer", "the SentencePiece model file of their texts, if the checkpoint has none"),
    },
    needs={"data": NO_DATA},
    size=size,
)
tpu_subject = RECIPE.subject


if __name__ == "__main__":
    sys.exit(command.main(RECIPE))
