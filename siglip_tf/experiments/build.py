"""From a recipe's settings to its parts: steps, optimizer, model, tokenizer, preprocessing, data."""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf
from ml_collections import ConfigDict

import siglip_tf
from siglip_tf import optimizers
from siglip_tf.checkpoints import Checkpoint
from siglip_tf.data import ImagePreprocessing, Preprocessing, Tokenizer
from siglip_tf.data.sources.base import Source
from siglip_tf.experiments.config import OPTIMIZERS, SCHEDULES
from siglip_tf.optimizers import Duration, ParameterGroup
from siglip_tf.storage import write_file
from siglip_tf.synthetic import LANGUAGES, SceneSource

# Of the embedded data; what a small model needs and no more.
_TOKENIZER_SCENES = 400
_TOKENIZER_PIECES = 600

# Parameter groups: the image tower's variables; temperature and bias.
IMAGE_TOWER = r"(^|/)image/"
SCALARS = r"(log_temperature|^[^/]*/?bias)$"


def total_steps(c: ConfigDict, examples_per_epoch: int | None = None) -> int:
    """Steps of the whole run, a multiple of `steps_per_execution`."""
    steps = _steps(c, c.duration, examples_per_epoch)
    return math.ceil(steps / c.steps_per_execution) * c.steps_per_execution


def _steps(c: ConfigDict, duration: str, examples_per_epoch: int | None = None, total: int | None = None) -> int:
    text = f"{duration} steps" if duration.strip().replace("_", "").isdigit() else duration
    return Duration.of(text).to_steps(c.batch, examples_per_epoch, total)


def needs_data_size(c: ConfigDict) -> bool:
    """Whether the duration is in epochs, which only the data's size makes steps."""
    return "epoch" in c.duration


def build_optimizer(c: ConfigDict, steps: int) -> optimizers.ReferenceChain:
    """The optimizer with its schedule and parameter groups.

    Raises:
        ValueError: an unknown optimizer or schedule.
    """
    o = c.optimizer
    if o.name not in OPTIMIZERS:
        raise ValueError(f"Expected optimizer.name among {', '.join(OPTIMIZERS)}. Received: {o.name!r}")
    groups = []
    if o.freeze_image:
        groups.append(ParameterGroup(IMAGE_TOWER, freeze=True))
    elif (o.image_learning_rate, o.image_decay) != (1.0, 1.0):
        groups.append(ParameterGroup(IMAGE_TOWER, o.image_learning_rate, o.image_decay))
    if o.scalars_learning_rate != 1.0:
        groups.append(ParameterGroup(SCALARS, o.scalars_learning_rate))
    common: dict[str, Any] = {
        "weight_decay": o.weight_decay,
        "beta_1": o.beta_1,
        "groups": groups,
        "global_clipnorm": o.clip,
    }
    schedule = build_schedule(c, steps)
    if o.name == "adafactor":
        return optimizers.ScalingViTAdafactor(o.learning_rate, schedule, beta_2_cap=o.beta_2, **common)
    kind = optimizers.AdamW if o.name == "adamw" else optimizers.Lion
    return kind(o.learning_rate, schedule, beta_2=o.beta_2, **common)


def build_schedule(c: ConfigDict, steps: int) -> keras.optimizers.schedules.LearningRateSchedule:
    """The schedule, in steps of this run. Warm-up and cooldown that are longer than a short run are cut to it."""
    s = c.schedule
    if s.name not in SCHEDULES:
        raise ValueError(f"Expected schedule.name among {', '.join(SCHEDULES)}. Received: {s.name!r}")
    warmup = min(_steps(c, s.warmup, total=steps), steps)
    cooldown = min(_steps(c, s.cooldown, total=steps), steps - warmup)
    if s.name == "rsqrt":
        timescale = _steps(c, s.timescale, total=steps)
        return optimizers.ReciprocalSqrt(steps, warmup, cooldown, timescale=timescale)
    kind = {"cosine": optimizers.Cosine, "linear": optimizers.Linear, "constant": optimizers.Constant}[s.name]
    return kind(steps, warmup, cooldown)


def build_model(c: ConfigDict, steps: int) -> siglip_tf.SigLIP:
    """The model, compiled; call it inside the strategy's scope."""
    optimizer = build_optimizer(c, steps)  # first, as it is soon said what is wrong with it
    model = siglip_tf.SigLIP(**c.model.to_dict(), seed=c.seed)
    model.compile(optimizer, steps_per_execution=c.steps_per_execution)
    return model


def batch_spec(model: siglip_tf.SigLIP) -> dict[str, tf.TensorSpec]:
    """What one example of a training batch is."""
    text = {"text": tf.TensorSpec((model.text_length,), tf.int32)}
    if model.image is None:
        return {"image_embedding": tf.TensorSpec((model.embed_dim,)), **text}
    return {"image": tf.TensorSpec((*model.image_size, 3)), **text}


def scenes(c: ConfigDict, split: str = "train", size: int | None = None) -> SceneSource:
    """The embedded data at the model's resolution."""
    side = min(256, max(32, c.model.image_size))
    languages = tuple(LANGUAGES)[: c.languages]
    options = {} if size is None else {"size": size}
    return SceneSource(split, seed=c.seed, captions=1, languages=languages, image_size=side, **options)


def own_tokenizer(c: ConfigDict, source: Source, folder: str) -> bytes:
    """A vocabulary of a source's captions, trained once a run and kept in its folder; `model.vocab_size` at most."""
    from siglip_tf.data.text.training import train_tokenizer
    from siglip_tf.experiments.tasks import captions_of

    path = f"{folder}/tokenizer.model"
    if not tf.io.gfile.exists(path):
        if isinstance(source, SceneSource):
            # Few different words: every one of them becomes one piece.
            texts = (text for index in range(_TOKENIZER_SCENES) for text in source.texts(index))
            proto = train_tokenizer(texts, _TOKENIZER_PIECES * c.languages, model_type="bpe")
        else:
            proto = train_tokenizer(captions_of(source), c.model.vocab_size)
        write_file(path, proto)
    with tf.io.gfile.GFile(path, "rb") as file:
        return file.read()


def build_tokenizer(c: ConfigDict, proto: bytes) -> Tokenizer:
    """The tokenizer at the model's text length.

    Raises:
        ValueError: it has more ids than the model's table.
    """
    tokenizer = Tokenizer(proto, c.model.text_length, lower_case=c.lower_case, pad_id=c.pad_id)
    if tokenizer.vocab_size > c.model.vocab_size:
        raise ValueError(
            f"The tokenizer has {tokenizer.vocab_size:,} ids, the model's table {c.model.vocab_size:,}: set "
            f"model.vocab_size={tokenizer.vocab_size}."
        )
    return tokenizer


def build_preprocessing(c: ConfigDict, tokenizer: Tokenizer, start: Checkpoint | None = None) -> Preprocessing:
    """How images and texts are prepared; images as the checkpoint that training starts from says, if it does."""
    known = start.preprocessing if start is not None else None
    if known and known.get("image"):
        image = Preprocessing.from_config({**known, "text": None}).image
    else:
        image = ImagePreprocessing(c.model.image_size, method=c.image_method)
    return Preprocessing(image, tokenizer)


def open_data(c: ConfigDict) -> Source:
    """The source of pictures and captions that `data` names.

    Raises:
        ValueError: none is named.
    """
    from siglip_tf.data.sources.opening import USAGE, open_source

    if not c.data:
        raise ValueError(f"Nothing to train on: name it by --data ({USAGE}), or use --embedded.")
    return open_source(c.data, split=c.split)


def parameter_count(variables: Any) -> int:
    """How many numbers the variables hold."""
    return sum(int(tf.TensorShape(v.shape).num_elements()) for v in variables)
