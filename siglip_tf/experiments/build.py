"""Builds the parts of a run from its settings: optimizer, model, tokenizer, preprocessing, augmentation, and source."""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf
from ml_collections import ConfigDict

import siglip_tf
from siglip_tf import optimizers, storage
from siglip_tf.checkpoints import Checkpoint
from siglip_tf.data import Augmentation, ImagePreprocessing, Preprocessing, Tokenizer
from siglip_tf.data.sources.base import Source
from siglip_tf.data.sources.options import joined_options, split_options
from siglip_tf.distribution import recommended_dtype_policy
from siglip_tf.experiments.schema import AUTO
from siglip_tf.experiments.tuning import IMAGE_TOWER, SCALARS, add_adapters, parameter_groups
from siglip_tf.models import VARIANTS
from siglip_tf.optimizers import Duration
from siglip_tf.synthetic import LANGUAGES, SceneSource

__all__ = ["IMAGE_TOWER", "SCALARS"]  # for the studies, which define groups of their own

# The size of the synthetic data's tokenizer: just enough for a small model.
_TOKENIZER_SCENES = 400
_TOKENIZER_PIECES = 600


def total_steps(c: ConfigDict, examples_per_epoch: int | None = None) -> int:
    """Returns the number of steps of the whole run, a multiple of `steps_per_execution`."""
    steps = _steps(c, c.duration, examples_per_epoch)
    return math.ceil(steps / c.steps_per_execution) * c.steps_per_execution


def _steps(c: ConfigDict, duration: str, examples_per_epoch: int | None = None, total: int | None = None) -> int:
    text = f"{duration} steps" if duration.strip().replace("_", "").isdigit() else duration
    return Duration.of(text).to_steps(c.batch, examples_per_epoch, total)


def needs_data_size(c: ConfigDict) -> bool:
    """Whether the number of steps depends on the data's size: a duration in epochs, or an automatic one."""
    return "epoch" in c.duration or c.duration == AUTO


def build_optimizer(c: ConfigDict, steps: int) -> optimizers.ReferenceChain:
    """The optimizer with its schedule and parameter groups."""
    o = c.optimizer
    common: dict[str, Any] = {
        "weight_decay": o.weight_decay,
        "beta_1": o.beta_1,
        "groups": parameter_groups(c, tower_depths(c)),
        "global_clipnorm": o.clip,
    }
    schedule = build_schedule(c, steps)
    if o.name == "adafactor":
        return optimizers.ScalingViTAdafactor(o.learning_rate, schedule, beta_2_cap=o.beta_2, **common)
    kind = optimizers.AdamW if o.name == "adamw" else optimizers.Lion
    return kind(o.learning_rate, schedule, beta_2=o.beta_2, **common)


def tower_depths(c: ConfigDict) -> dict[str, int]:
    """Returns the number of blocks of each tower that the model has."""
    names = {"image": c.model.image, "text": c.model.text}
    return {
        tower: c.model[f"{tower}_depth"] or VARIANTS[name.partition("/")[0]].depth
        for tower, name in names.items()
        if name is not None
    }


def build_schedule(c: ConfigDict, steps: int) -> keras.optimizers.schedules.LearningRateSchedule:
    """Returns the schedule in steps of this run. In a short run, warm-up and cooldown are shortened to fit."""
    s = c.schedule
    warmup = min(_steps(c, s.warmup, total=steps), steps)
    cooldown = min(_steps(c, s.cooldown, total=steps), steps - warmup)
    if s.name == "rsqrt":
        timescale = _steps(c, s.timescale, total=steps)
        return optimizers.ReciprocalSqrt(steps, warmup, cooldown, timescale=timescale)
    kind = {"cosine": optimizers.Cosine, "linear": optimizers.Linear, "constant": optimizers.Constant}[s.name]
    return kind(steps, warmup, cooldown)


def build_model(c: ConfigDict, steps: int) -> siglip_tf.SigLIP:
    """Returns the compiled model. Call it inside the strategy's scope."""
    optimizer = build_optimizer(c, steps)  # built before the weights, so that an invalid optimizer fails sooner
    arguments = c.model.to_dict()
    if arguments["dtype"] == AUTO:
        arguments["dtype"] = recommended_dtype_policy()
    model = siglip_tf.SigLIP(**arguments, seed=c.seed)
    add_adapters(model, c)
    model.compile(optimizer, steps_per_execution=c.steps_per_execution)
    return model


def batch_spec(model: siglip_tf.SigLIP) -> dict[str, tf.TensorSpec]:
    """Returns the shapes and dtypes of one training example: uint8 pixels and int32 token ids."""
    text = {"text": tf.TensorSpec((model.text_length,), tf.int32)}
    if model.image is None:
        return {"image_embedding": tf.TensorSpec((model.embed_dim,)), **text}
    return {"image": tf.TensorSpec((*model.image_size, 3), tf.uint8), **text}


def scenes(c: ConfigDict, split: str = "train", size: int | None = None) -> SceneSource:
    """Returns the synthetic data at the model's resolution."""
    side = min(256, max(32, c.model.image_size))
    languages = tuple(LANGUAGES)[: c.languages]
    options: dict[str, Any] = {} if size is None else {"size": size}
    return SceneSource(split, seed=c.seed, captions=1, languages=languages, image_size=side, **options)


def own_tokenizer(c: ConfigDict, source: Source, folder: str) -> bytes:
    """Returns a tokenizer that is trained on a source's captions once and stored in the run's folder.

    It has at most `model.vocab_size` pieces.
    """
    from siglip_tf.data.text.training import train_tokenizer
    from siglip_tf.experiments.held_out import captions_of

    path = f"{folder}/tokenizer.model"
    if not tf.io.gfile.exists(path):
        # By "bpe" common words become one piece each. "unigram" spells words that occur inside no other word.
        if isinstance(source, SceneSource):
            texts = (text for index in range(_TOKENIZER_SCENES) for text in source.texts(index))
            proto = train_tokenizer(texts, _TOKENIZER_PIECES * c.languages, model_type="bpe")
        else:
            proto = train_tokenizer(captions_of(source), c.model.vocab_size, model_type="bpe")
        tf.io.gfile.makedirs(folder)
        storage.write_file(path, proto)
    return storage.read_file(path)


def build_tokenizer(c: ConfigDict, proto: bytes, start: Checkpoint | None = None) -> Tokenizer:
    """The tokenizer at the model's text length, with the options of the checkpoint that training starts from.

    The settings `lower_case` and `pad_id` replace the checkpoint's options if they are set.

    Raises:
        ValueError: if the tokenizer has more ids than the model's embedding table.
    """
    known = _known(start, "text")
    named = {name: c[name] for name in ("lower_case", "pad_id") if c[name] is not None}
    tokenizer = Tokenizer(proto, **{**known, **named, "length": c.model.text_length})
    if tokenizer.vocab_size > c.model.vocab_size:
        raise ValueError(
            f"The tokenizer has {tokenizer.vocab_size:,} ids, the model's table {c.model.vocab_size:,}: set "
            f"model.vocab_size={tokenizer.vocab_size}."
        )
    return tokenizer


def build_preprocessing(c: ConfigDict, tokenizer: Tokenizer, start: Checkpoint | None = None) -> Preprocessing:
    """Returns the preprocessing of images and texts. If the start checkpoint describes its image preprocessing, use it.

    If `image_alpha` is None, transparent pictures are treated as the checkpoint says. Without a checkpoint, they are
    composed on white.
    """
    alpha = {} if c.image_alpha is None else {"alpha": c.image_alpha}
    if known := _known(start, "image"):
        image = ImagePreprocessing.from_config({**known, **alpha})
    else:
        if start is None:
            alpha = {"alpha": "white"} | alpha
        image = ImagePreprocessing(c.model.image_size, method=c.image_method, **alpha)
    return Preprocessing(image, tokenizer)


def _known(start: Checkpoint | None, part: str) -> dict[str, Any]:
    """Returns what a checkpoint says about its preprocessing of images or texts."""
    return dict(((start.preprocessing if start is not None else None) or {}).get(part) or {})


def build_augmentation(c: ConfigDict) -> Augmentation | None:
    """Returns the augmentation that the `augment` settings ask for, or None."""
    a = c.augment
    options = {"shift": a.shift, "scale": a.scale, "rotate": a.rotate, "color": a.color}
    if a.flip == "none" and a.crop == 1.0 and not any(options.values()):
        return None
    flip = {"none": False, "captions": "captions", "all": True}[a.flip]
    return Augmentation(flip, None if a.crop == 1.0 else (a.crop, 1.0), **options)


def open_data(c: ConfigDict) -> Source:
    """Opens the source of pictures and captions that `data` names.

    Raises:
        ValueError: if it cannot be opened.
    """
    from siglip_tf.data.sources.opening import open_source

    return open_source(named_data(c), split=c.split)


def named_data(c: ConfigDict) -> str:
    """Returns `data` with the setting `group` added as an option.

    Raises:
        ValueError: if `data` names the groups too.
    """
    if not c.group:
        return c.data
    path, options = split_options(c.data)
    if "group" in options:
        raise ValueError(f"The groups are named twice: group={c.group} and, in {c.data!r}, {options['group']!r}.")
    return joined_options(path, {**options, "group": c.group})


def parameter_count(variables: Any) -> int:
    """How many numbers the variables hold."""
    return sum(int(tf.TensorShape(v.shape).num_elements()) for v in variables)
