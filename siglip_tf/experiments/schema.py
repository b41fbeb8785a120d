"""The table of all settings, with the default, the type, and the allowed values of each. It imports nothing heavy."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any

OPTIMIZERS = ("adafactor", "adamw", "lion")
SCHEDULES = ("cosine", "rsqrt", "linear", "constant")
# Names of `siglip_tf.models.VARIANTS` and of the TPU generations in `siglip_tf.tpu`; a test compares them.
TOWERS = ("mu", "Ti", "S", "M", "B", "L", "L*", "So400m", "H", "g", "g-opt", "G", "G-opt", "e")
CHIPS = ("v4", "v5e", "v5p", "v6e")
LANGUAGE_COUNT = 6  # of the synthetic data
# How a tower is trained. See `siglip_tf.experiments.tuning`.
TUNINGS = ("whole", "frozen", "last", "lora", "head")

AUTO = "auto"
PROJECTIONS = ("q", "k", "v", "out", "fc1", "fc2")  # the projections that can have low-rank adapters

_DURATION = re.compile(r"\s*[0-9][0-9_,]*(\.[0-9]+)?\s*[kKmMbB]?\s*(steps?|examples?|epochs?|percent|%)?\s*")


@dataclasses.dataclass(frozen=True)
class Setting:
    """One setting.

    Attributes:
        default: the value if a recipe sets none.
        kind: the type: int, float, bool, or str.
        optional: whether None is allowed.
        least: the smallest allowed value.
        above: the value must be greater than this number.
        most: the largest allowed value.
        below: the value must be less than this number.
        choices: the allowed values, if only some are.
        form: a further check. It returns what is expected if the value is invalid, else None.
    """

    default: Any
    kind: type
    optional: bool = False
    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None
    choices: tuple[Any, ...] | None = None
    form: Callable[[Any], str | None] | None = None

    def check(self, key: str, value: Any) -> None:
        """Raises a ValueError with the key, the allowed values, and the value if the value is not allowed."""
        if value is None and self.optional:
            return
        right_type = isinstance(value, self.kind) and not (isinstance(value, bool) and self.kind is not bool)
        expected = f"to be of type {self.kind.__name__}" if not right_type else self._expected(value)
        if expected:
            more = " or None" if self.optional else ""
            raise ValueError(f"Expected {key} {expected}{more}. Received: {value!r}")

    def _expected(self, value: Any) -> str | None:
        if self.choices is not None and value not in self.choices:
            return f"among {', '.join(map(str, self.choices))}"
        if self.kind is float and not math.isfinite(value):
            return "to be a finite number"
        bounds = []
        if self.least is not None:
            bounds.append((f">= {self.least:g}", value >= self.least))
        if self.above is not None:
            bounds.append((f"> {self.above:g}", value > self.above))
        if self.most is not None:
            bounds.append((f"<= {self.most:g}", value <= self.most))
        if self.below is not None:
            bounds.append((f"< {self.below:g}", value < self.below))
        if not all(holds for _, holds in bounds):
            return " and ".join(text for text, _ in bounds)
        return self.form(value) if self.form is not None else None


def _duration(value: str) -> str | None:
    if _DURATION.fullmatch(value):
        return None
    return "as '65k steps', '40B examples', '3 epochs' or '10%'"


def _run_length(value: str) -> str | None:
    """Checks the length of a run. "auto" means that the recipe derives it from the data."""
    return None if value == AUTO else _length(value)


def _length(value: str) -> str | None:
    """Checks a duration that must not be 0 or a percentage."""
    if _duration(value) or not float(re.sub(r"[^0-9.]", "", value)):
        return "as '65k steps', '40B examples' or '3 epochs', and not 0"
    return None if not value.strip().endswith(("%", "percent")) else "in steps, examples or epochs, not in percent"


def _image_tower(value: str) -> str | None:
    name, slash, patch = value.partition("/")
    if name in TOWERS and (not slash or (patch.isdecimal() and int(patch) > 0)):
        return None
    return f"as 'B/16' with a size among {', '.join(TOWERS)}"


def _topology(value: str) -> str | None:
    found = re.fullmatch(r"(\w+):(\d+(?:x\d+){1,2})", value)
    if found and found[1] in CHIPS and "0" not in found[2].split("x"):
        return None
    return f"as 'v4:2x2x1' with a chip among {', '.join(CHIPS)}"


def _projections(value: str) -> str | None:
    names = [name.strip() for name in value.split(",")]
    return None if set(names) <= set(PROJECTIONS) else f"as a list with commas among {', '.join(PROJECTIONS)}"


def _text(default: str | None = None) -> Setting:
    return Setting(default, str, optional=True, form=lambda value: None if value.strip() else "to name something")


def _size(default: int | None = None) -> Setting:
    return Setting(default, int, optional=default is None, least=1)


# The arguments of `siglip_tf.SigLIP` with their defaults, and the dtype policy. A test compares them with the class.
MODEL = {
    "dtype": Setting(
        "float32",
        str,
        choices=(AUTO, "float32", "mixed_bfloat16", "mixed_float16", "bfloat16", "float16", "float64"),
    ),
    "image": Setting("B/16", str, optional=True, form=_image_tower),
    "text": Setting("B", str, choices=TOWERS),
    "image_size": _size(224),
    "text_length": _size(64),
    "vocab_size": _size(32_000),
    "embed_dim": _size(),
    "patch_size": _size(),
    "image_width": _size(),
    "image_depth": _size(),
    "image_mlp_dim": _size(),
    "image_heads": _size(),
    "image_pool": Setting("map", str, choices=("map", "gap", "tok")),
    "text_width": _size(),
    "text_depth": _size(),
    "text_mlp_dim": _size(),
    "text_heads": _size(),
    "text_head": Setting(True, bool),
    "token_bottleneck": _size(),
    "dropout": Setting(0.0, float, least=0, below=1),
    "stochastic_depth": Setting(0.0, float, least=0, below=1),
    "remat": Setting("none", str, choices=("none", "block", "selective", "attention")),
    "attention": Setting("einsum", str, choices=("einsum", "fused")),
    "scan_layers": Setting(False, bool),
    "microbatch_size": _size(),
    "loss": Setting("sigmoid", str, choices=("sigmoid", "softmax")),
    # How the loss treats pairs of the same "group", and pairs with equal token ids.
    "same_group": Setting("positive", str, choices=("negative", "positive", "ignore")),
    "equal_captions": Setting("negative", str, choices=("negative", "positive", "ignore")),
    "loss_precision": Setting("float32", str, choices=("float32", "bfloat16")),
    "init_temperature": Setting(10.0, float, above=0),
    "init_bias": Setting(-10.0, float, optional=True),
    "tile_size": _size(),
    "tower_norms": Setting(False, bool),
}

OPTIMIZER = {
    "name": Setting("adafactor", str, choices=OPTIMIZERS),
    "learning_rate": Setting(1e-3, float, above=0),  # the peak of the schedule
    "weight_decay": Setting(1e-4, float, least=0),  # scaled by the schedule, not by the learning rate
    "beta_1": Setting(0.9, float, least=0, below=1),
    "beta_2": Setting(0.95, float, least=0, below=1),  # section 4.7
    "clip": Setting(1.0, float, optional=True, above=0),  # the largest global norm of the gradient
    # Parameter groups: factors for the towers, and for t' and b.
    "image_learning_rate": Setting(1.0, float, above=0),
    "image_decay": Setting(1.0, float, least=0),
    "text_learning_rate": Setting(1.0, float, above=0),
    "text_decay": Setting(1.0, float, least=0),
    "layer_decay": Setting(1.0, float, above=0, most=1),  # learning-rate factor for each block below the last
    "scalars_learning_rate": Setting(1.0, float, above=0),
    "freeze_image": Setting(False, bool),  # skips the gradient pass through the image tower
}

SCHEDULE = {
    "name": Setting("cosine", str, choices=SCHEDULES),
    "warmup": Setting("10k steps", str, form=_duration),
    "cooldown": Setting("0 steps", str, form=_duration),
    "timescale": Setting("10k steps", str, form=_length),  # for rsqrt
}

# Which parts of a trained model are trained further. See `siglip_tf.experiments.tuning`.
TUNE = {
    "image": Setting("whole", str, choices=TUNINGS),
    "text": Setting("whole", str, choices=TUNINGS),
    "last_blocks": Setting(2, int, least=1),  # for "last"
    "lora_rank": Setting(8, int, least=1),
    "lora_projections": Setting("q,k,v,out,fc1,fc2", str, form=_projections),
    "scalars": Setting(True, bool),  # whether temperature and bias are trained
}

# Random changes of training pictures. See `siglip_tf.data.Augmentation`.
AUGMENT = {
    # "captions" mirrors pictures unless a caption says left or right. "all" mirrors them regardless of the captions.
    "flip": Setting("none", str, choices=("none", "captions", "all")),
    "crop": Setting(1.0, float, above=0, most=1),  # the smallest fraction of the area that a crop keeps
    "shift": Setting(0.0, float, least=0, most=0.5),  # a fraction of the picture's side
    "scale": Setting(0.0, float, least=0, below=1),
    "rotate": Setting(0.0, float, least=0, most=180),  # degrees
    "color": Setting(0.0, float, least=0, most=1),
}

EVALUATE = {
    "tasks": _text(),  # tasks of `tools.evaluate`, separated by spaces; "held_out" is the held-out part of the data
    "every": Setting(0, int, least=0),  # steps between evaluations; 0 evaluates only at the end
    "metric": _text(),  # the metric that decides which checkpoint is best
    "patience": Setting(None, int, optional=True, least=1),  # evaluations without improvement that end the run
}

RUN = {
    "batch": Setting(32, int, least=2),
    "duration": Setting("1k steps", str, form=_run_length),
    "topology": Setting("v4:2x2x1", str, form=_topology),
    "seed": Setting(0, int, least=0, most=2**31 - 1),
}

DATA = {
    # Pictures and captions (see `siglip_tf.data.sources.opening`). For SigLiT, a folder of stored embeddings.
    "data": _text(),
    "split": _text(),
    "group": _text(),  # column, feature, or JSON key of the pictures' groups, if it is not the source's "group"
    "tokenizer": _text(),  # a SentencePiece model file
    # None means: as the start checkpoint says. Without one, "unicode", and EOS (1) as in SigLIP.
    "lower_case": Setting(None, str, optional=True, choices=("unicode", "simple", "ascii", "none")),
    "pad_id": Setting(None, int, optional=True, least=0),
    "image_method": Setting("big_vision", str, choices=("big_vision", "bicubic_antialias", "bilinear_antialias")),
    # How transparent pictures are treated. None means: as the start checkpoint says. Without one, "white".
    "image_alpha": Setting(None, str, optional=True, choices=("drop", "white")),
    "start": _text(),  # the checkpoint whose weights training begins with
    "tower": _text(),  # for SigLiT, the checkpoint of the frozen image tower
    "bad_record_limit": Setting(0.01, float, least=0),
    # The number of equal parts of the global batch, each with its own position in the data. The default is the number
    # of processes that make batches. With a multiple of it, a run can continue with fewer or more processes.
    "streams": Setting(None, int, optional=True, least=1),
    "languages": Setting(1, int, least=1, most=LANGUAGE_COUNT),  # languages of the synthetic captions
}

LIFE = {
    "checkpoint_every": Setting(1000, int, least=1),
    "keep_last": Setting(3, int, least=1),
    "keep_every": Setting(None, int, optional=True, least=1),
    "log_every": Setting(50, int, least=1),
    "steps_per_execution": Setting(1, int, least=1),
    # At NaN or a spike, "stop" ends the run. "skip" goes back to the last checkpoint and skips the data since then.
    "on_fault": Setting("stop", str, choices=("stop", "skip")),
    "spike": Setting(None, float, optional=True, above=1),  # times the median gradient norm; None watches only NaN
    "deterministic": Setting(False, bool),  # makes TensorFlow's own ops deterministic too
    "report": Setting(True, bool),  # whether to write the report at the end
    # Weights & Biases or MLflow, which then receive the metrics too. It must be installed.
    "tracker": Setting(None, str, optional=True, choices=("wandb", "mlflow")),
}


def _part(name: str, table: dict[str, Setting]) -> dict[str, Setting]:
    return {f"{name}.{key}": setting for key, setting in table.items()}


# Defaults of earlier versions for settings whose default is now None. Runs of that time used these values.
FORMER_DEFAULTS: dict[str, Any] = {"lower_case": "unicode", "pad_id": 1, "image_alpha": "drop"}

SCHEMA: dict[str, Setting] = {
    **RUN,
    **_part("model", MODEL),
    **_part("optimizer", OPTIMIZER),
    **_part("schedule", SCHEDULE),
    **DATA,
    **LIFE,
    **_part("tune", TUNE),
    **_part("augment", AUGMENT),
    **_part("evaluate", EVALUATE),
}
