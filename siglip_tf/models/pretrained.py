"""Builds a model from any checkpoint, and a checkpoint from a model. `siglip_tf.checkpoints` implements the formats."""

import os
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from siglip_tf import checkpoints
from siglip_tf.checkpoints import Checkpoint
from siglip_tf.data import Preprocessing
from siglip_tf.models.lora import merged_weights


def read_model(
    make: Callable[..., keras.Model],
    path: str | os.PathLike,
    image_size: int | tuple[int, int] | None,
    tokenizer: str | os.PathLike | None,
    resize: str | None,
    verbose: bool,
    options: dict[str, Any],
) -> keras.Model:
    """See `SigLIP.from_checkpoint`. `make` is the class."""
    checkpoint = checkpoints.read(path, tokenizer, resize)
    if image_size is not None:
        checkpoint = checkpoints.with_image_size(checkpoint, image_size)
    missing = [tower for tower in ("image", "text") if tower not in checkpoint.towers]
    if "text" in missing and "text" not in options:
        raise ValueError(
            f"{path} holds an image tower alone. Say which text tower to train beside it, for instance "
            "from_checkpoint(path, text='B', text_length=16, vocab_size=32_000)."
        )
    model = make(**{**checkpoint.architecture, **options})
    fresh = {n: v.numpy() for n, v in model.named_weights().items() if n not in checkpoint.weights} if missing else {}
    fill_model(model, checkpoint, fresh)
    if verbose:
        print(_description(checkpoint, fresh))
    return model


def checkpoint_of(model: keras.Model, arguments: dict[str, Any]) -> Checkpoint:
    """See `SigLIP.to_checkpoint`. `arguments` are those of the model's constructor."""
    preprocessing, tokenizer = None, None
    if model.preprocessing is not None:
        preprocessing = model.preprocessing.to_config(vocabulary=False)
        tokenizer = None if model.preprocessing.text is None else model.preprocessing.text.model_proto
    architecture = {**arguments, "image_size": model.image_size}
    return Checkpoint(
        architecture,
        merged_weights(model),
        preprocessing,
        tokenizer=tokenizer,
        source=model.name,
        calibration=model.calibration,
    )


def fill_model(model: keras.Model, checkpoint: Checkpoint, fresh: Mapping[str, np.ndarray] | None = None) -> None:
    """Gives a model the weights, the preprocessing, and the calibration of a checkpoint.

    `fresh` are the weights that the checkpoint does not have.
    """
    model.assign_weights({**checkpoint.weights, **(fresh or {})})
    model.calibration = checkpoint.calibration
    if checkpoint.preprocessing is None:
        return
    config = dict(checkpoint.preprocessing)
    if checkpoint.tokenizer is None:
        # Without a vocabulary, which npz files do not contain, the model still has its image preprocessing.
        config["text"] = None
    if model.max_patches is not None and config.get("image"):
        config["image"] = {**config["image"], "max_patches": model.max_patches}  # the caller may ask for another number
    model.preprocessing = Preprocessing.from_config(config, checkpoint.tokenizer)


def _description(checkpoint, fresh):
    lines = [checkpoints.describe(checkpoint)]
    if fresh:
        lines.append(f"{len(fresh)} weights are not in it and start from initial values: {', '.join(_groups(fresh))}")
    return "\n".join(lines)


def _groups(names):
    """Returns the names as `tower/part`, in order and without repetitions."""
    return list(dict.fromkeys("/".join(name.split("/")[:2]) for name in names))
