"""Prepares a run's data, preprocessing, and first weights from pictures with captions and from checkpoints."""

from __future__ import annotations

import dataclasses
import functools
import math
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from siglip_tf import checkpoints
from siglip_tf.checkpoints import Checkpoint
from siglip_tf.data import Tokenizer
from siglip_tf.data.sources.base import Source
from siglip_tf.data.sources.kept_pictures import KeptPictures, can_keep
from siglip_tf.experiments import build
from siglip_tf.experiments.config import set_value
from siglip_tf.experiments.first_weights.of_both_towers import first_weights
from siglip_tf.experiments.held_out import HeldOut, captions_of, held_out_part

# Arguments of `SigLIP` that a checkpoint decides, by tower.
IMAGE = (
    "image", "image_size", "patch_size", "image_pool",
    "image_width", "image_depth", "image_mlp_dim", "image_heads",
)  # fmt: skip
_TEXT = (
    "text", "text_length", "vocab_size", "text_head", "token_bottleneck",
    "text_width", "text_depth", "text_mlp_dim", "text_heads",
)  # fmt: skip

SCENES_HELD_OUT = 256
# A function of a model with its initial weights. It returns the weights that replace some of them, by canonical name.
FirstWeights = Callable[[Any], Mapping[str, Any]]
_FITTING = 98  # percent of the captions that fit into the text length


@dataclasses.dataclass
class Prepared:
    """What a run trains on and begins with.

    Attributes:
        data: a function that returns the `TrainingData` or `EmbeddingData` that the settings then describe.
        preprocessing: the model's preprocessing, or None for a model without an image tower.
        examples: number of pairs per epoch.
        weights: the first weights by canonical name, or a function that computes them from the initial values. Other
            weights keep their initial values.
        finish: a function that the chief calls with the trained model and the final checkpoint's path, instead of
            `model.save_checkpoint`.
        held_out: the data with its held-out part, or None if nothing is held out of training.
    """

    data: Callable[[], Any]
    preprocessing: Any
    examples: int
    weights: Mapping[str, Any] | FirstWeights | None = None
    finish: Callable[[Any, str], None] | None = None
    held_out: HeldOut | None = None


def pairs(
    c: ConfigDict,
    folder: str,
    synthetic: bool,
    start: Checkpoint | None = None,
    own_vocabulary: bool = False,
    fit_text: bool = False,
    fit_patches: bool = False,
    keep_pictures: bool = False,
    hold_out: bool = False,
    scenes_held_out: int | None = None,
) -> Prepared:
    """Prepares the pictures and captions of `data`, or synthetic data.

    Args:
        c: the settings. If a tokenizer is trained for the run, `model.vocab_size` is set.
        folder: the run's folder.
        synthetic: whether to use synthetic data instead of `data`.
        start: a checkpoint that the model begins with. Its tokenizer and image preprocessing are used if it has them.
        own_vocabulary: whether to train a tokenizer on the captions if none is named.
        fit_text: whether to reduce `model.text_length` to the number of tokens that the captions need.
        fit_patches: whether the patch projection begins with the pictures' principal components.
        keep_pictures: whether to decode small data once and keep them in memory.
        hold_out: whether to hold out a part of `data` even if no evaluation asks for it.
        scenes_held_out: how many synthetic pictures each evaluation uses. The default is `SCENES_HELD_OUT`.

    Raises:
        ValueError: if no data or tokenizer is named, or they do not fit the model.
    """
    from siglip_tf.data.pipeline import TrainingData

    holds_out = synthetic or hold_out or "held_out" in shlex.split(c.evaluate.tasks or "")
    held_out = held_out_part(c, synthetic, scenes_held_out or SCENES_HELD_OUT) if holds_out else None
    source = held_out.train if held_out and not synthetic else build.scenes(c) if synthetic else build.open_data(c)
    for note in source.notes:
        print(f"data: {note}", file=sys.stderr)
    trains_own = synthetic or own_vocabulary
    proto = _vocabulary(c, folder, source if trains_own else None, start)
    if fit_text:
        set_value(c, "model.text_length", _tokens_needed(build.build_tokenizer(c, proto, start), source))
    tokenizer = build.build_tokenizer(c, proto, start)
    preprocessing = build.build_preprocessing(c, tokenizer, start)

    def data() -> TrainingData:
        crops = c.augment.crop < 1 or c.augment.flip == "all"
        keep = keep_pictures and can_keep(source, preprocessing.image, crops)
        return TrainingData(
            KeptPictures(source, preprocessing.image) if keep else source,
            preprocessing,
            c.batch,
            seed=c.seed,
            streams=c.streams,
            augmentation=build.build_augmentation(c),
            bad_record_limit=c.bad_record_limit,
            report=f"{folder}/bad_records_{{worker}}.jsonl",
        )

    weights: Any = None if start is None else start.weights
    if fit_patches and start is None:
        weights = functools.partial(first_weights, c, source, preprocessing)
    return Prepared(data, preprocessing, source.size, weights, held_out=held_out)


def _vocabulary(c: ConfigDict, folder: str, captions: Source | None, start: Checkpoint | None) -> bytes:
    if c.tokenizer:
        return Path(c.tokenizer).read_bytes()
    if start is not None and start.tokenizer is not None:
        return start.tokenizer
    if captions is None:
        raise ValueError(
            "How texts become tokens is not known: name a SentencePiece model by --tokenizer, or train one of the "
            "captions: python -m tools.train_tokenizer --help"
        )
    proto = build.own_tokenizer(c, captions, folder)
    set_value(c, "model.vocab_size", Tokenizer(proto, c.model.text_length).vocab_size)
    return proto


def _tokens_needed(tokenizer: Tokenizer, source: Source) -> int:
    """Returns how many tokens nearly all captions need, with the end mark: a multiple of 4, but at least 8.

    The result is at most the tokenizer's length.
    """
    texts = list(captions_of(source))
    if not texts:
        return tokenizer.length
    ids = tokenizer(texts).numpy()
    lengths = ((ids != tokenizer.eos_id) & (ids != tokenizer.pad_id)).sum(axis=1) + 1
    needed = math.ceil(np.percentile(lengths, _FITTING, method="higher") / 4) * 4
    return min(tokenizer.length, max(8, needed))


def whole_start(c: ConfigDict, image_size: int | None = None) -> Checkpoint | None:
    """Reads the checkpoint of both towers that `start` names, and copies its architecture into the settings.

    Args:
        c: the settings.
        image_size: another resolution in pixels. The position embeddings are resampled to it.

    Raises:
        ValueError: if a tower is missing.
    """
    if not c.start:
        return None
    checkpoint = checkpoints.read(c.start, c.tokenizer)
    if image_size is not None:
        checkpoint = checkpoints.with_image_size(checkpoint, image_size)
    if missing := {"image", "text"} - set(checkpoint.towers):
        raise ValueError(f"Expected a checkpoint of both towers. {c.start} lacks the {' and '.join(missing)} tower.")
    _adopt(c, checkpoint, (*IMAGE, *_TEXT))
    return checkpoint


def image_start(c: ConfigDict) -> Checkpoint | None:
    """Reads the image tower of the checkpoint that `start` names, and copies its architecture into the settings.

    Raises:
        ValueError: if there is no image tower.
    """
    if not c.start:
        return None
    checkpoint = checkpoints.read(c.start)
    if "image" not in checkpoint.towers:
        raise ValueError(f"Expected a checkpoint with an image tower. {c.start} has none.")
    if c.model.image_size != checkpoint.architecture["image_size"]:
        checkpoint = checkpoints.with_image_size(checkpoint, c.model.image_size)
    _adopt(c, checkpoint, IMAGE)
    weights = {name: array for name, array in checkpoint.weights.items() if name.startswith("image/")}
    return dataclasses.replace(checkpoint, weights=weights, tokenizer=None)


def _adopt(c: ConfigDict, checkpoint: Checkpoint, names: tuple[str, ...]) -> None:
    if checkpoint.architecture.get("max_patches"):
        raise ValueError(
            "Expected a checkpoint of a fixed resolution to start from: NaFlex towers do not train here. "
            f"Received: {checkpoint.source}."
        )
    for name in names:
        if name in checkpoint.architecture:
            value = checkpoint.architecture[name]
            if name == "image_size" and not isinstance(value, int):
                height, width = value
                if height != width:
                    raise ValueError(f"Expected a checkpoint of square images. Received: {height} x {width}.")
                value = height
            set_value(c, f"model.{name}", value)
