"""What a recipe may set: a typed schema with the defaults that recipes share, and `--set key=value` checked against it.

A recipe calls `settings(...)` with the paper's values; what it does not name keeps the value below.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict, config_dict

# Arguments of `SigLIP` that no recipe sets: the seed is the run's, masked negatives are a study's (section 4.8).
_NOT_SET = ("self", "kwargs", "seed", "negatives")

OPTIMIZERS = ("adafactor", "adamw", "lion")
SCHEDULES = ("cosine", "rsqrt", "linear", "constant")


def settings(
    *,
    batch: int,
    duration: str,
    model: Mapping[str, Any],
    optimizer: Mapping[str, Any],
    schedule: Mapping[str, Any],
    topology: str = "v4:2x2x1",
    **more: Any,
) -> ConfigDict:
    """A recipe's settings, locked: a key that is not there, or a value of another type, is refused.

    Args:
        batch: pairs a step over all replicas.
        duration: of the run, such as "9B examples", "65k steps" or "30 epochs".
        model: arguments of `siglip_tf.SigLIP`, and "dtype", a Keras dtype policy.
        optimizer: see `_optimizer`.
        schedule: see `_schedule`.
        topology: TPU slice that the plan is made for.
        **more: any of the other keys below.
    """
    c = ConfigDict(
        {
            "batch": batch,
            "duration": duration,
            "topology": topology,
            "seed": 0,
            "model": _model(),
            "optimizer": _optimizer(),
            "schedule": _schedule(),
            # Pictures and captions: see `siglip_tf.data.sources.open_source`; SigLiT: a folder of stored embeddings.
            "data": config_dict.placeholder(str),
            "split": config_dict.placeholder(str),
            "tokenizer": config_dict.placeholder(str),  # a SentencePiece model file
            "lower_case": "unicode",  # or "ascii", "none"
            "pad_id": 1,  # EOS, as in SigLIP's public models
            "image_method": "big_vision",  # or "bicubic_antialias"
            "start": config_dict.placeholder(str),  # a checkpoint whose weights training begins with
            "tower": config_dict.placeholder(str),  # SigLiT: the checkpoint of the frozen image tower
            "bad_record_limit": 0.01,
            # The embedded data in place of `data`: how many languages the scenes are described in.
            "languages": 1,
            # Of the run.
            "checkpoint_every": 1000,
            "keep_last": 3,
            "keep_every": config_dict.placeholder(int),
            "log_every": 50,
            "steps_per_execution": 1,
            "on_fault": "stop",  # at NaN or a spike; "skip" goes back to the last checkpoint and passes over the data
            "spike": config_dict.placeholder(float),  # times the median gradient norm that is a spike; None: NaN alone
            "deterministic": False,  # equal bits run by run where TensorFlow's own ops would not give them
        },
        type_safe=True,
    )
    c.lock()
    for part, values in (("model", model), ("optimizer", optimizer), ("schedule", schedule), (None, more)):
        for key, value in values.items():
            set_value(c, key if part is None else f"{part}.{key}", value)
    return c


def _model() -> ConfigDict:
    """Every argument of `SigLIP` with its default, and the dtype policy."""
    from siglip_tf import SigLIP

    fields: dict[str, Any] = {"dtype": "float32"}
    for name, parameter in inspect.signature(SigLIP.__init__).parameters.items():
        if name not in _NOT_SET:
            fields[name] = _typed(parameter.default, parameter.annotation)
    return ConfigDict(fields)


def _typed(default: Any, annotation: Any) -> Any:
    """The default, or a field of the annotation's type where None is one of its values."""
    kinds = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    if type(None) not in kinds:
        return default
    return config_dict.FieldReference(default, field_type=next(kind for kind in kinds if kind is not type(None)))


def _optimizer() -> ConfigDict:
    return ConfigDict(
        {
            "name": "adafactor",
            "learning_rate": 1e-3,  # at its peak
            "weight_decay": 1e-4,  # scaled by the schedule, not by the learning rate
            "beta_1": 0.9,
            "beta_2": 0.95,  # section 4.7
            "clip": config_dict.FieldReference(1.0, field_type=float),  # global norm of the gradient
            # Parameter groups.
            "image_learning_rate": 1.0,  # factor for the image tower
            "image_decay": 1.0,  # factor for the image tower
            "scalars_learning_rate": 1.0,  # factor for t' and b
            "freeze_image": False,  # no gradient pass through the image tower at all
        }
    )


def _schedule() -> ConfigDict:
    return ConfigDict(
        {
            "name": "cosine",
            "warmup": "10k steps",
            "cooldown": "0 steps",
            "timescale": "10k steps",  # of rsqrt
        }
    )


def override(c: ConfigDict, assignments: Iterable[str]) -> None:
    """Applies `key=value` texts, with dots into the parts: `batch=4096`, `optimizer.learning_rate=3e-4`.

    Raises:
        ValueError: a text without "=", an unknown key, or a value of another type than the setting's.
    """
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"Expected --set key=value. Received: {text!r}")
        key = key.strip()
        set_value(c, key, _read(value.strip(), c, key))


def _read(text: str, c: ConfigDict, key: str) -> Any:
    """The text as a value: as it stands where the setting is a text, else a Python literal."""
    _require(c, key)
    if text.lower() in ("none", "null") and _may_be_none(c, key):
        return None
    if _type_of(c, key) is str:
        return text
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def set_value(c: ConfigDict, key: str, value: Any) -> None:
    """Sets one setting.

    Raises:
        ValueError: an unknown key, or a value of another type than the setting's.
    """
    _require(c, key)
    kind = _type_of(c, key)
    numeric = kind in (int, float) and isinstance(value, int | float)
    if isinstance(value, float) and kind is int and value.is_integer():
        value = int(value)  # 4e3 is as good a batch as 4000
    try:
        if isinstance(value, bool) and numeric:
            raise TypeError("a truth value")
        if value is None and not _may_be_none(c, key):
            raise TypeError("nothing")
        c.update_from_flattened_dict({key: value})
    except (TypeError, ValueError) as error:
        raise ValueError(f"Expected {key} to be of type {kind.__name__}. Received: {value!r}") from error


def _require(c: ConfigDict, key: str) -> None:
    known = list(flat(c))
    if key not in known:
        near = difflib.get_close_matches(key, known, n=3, cutoff=0.5)
        near += [name for name in known if name.endswith(f".{key}")]
        hint = f"Did you mean {', '.join(dict.fromkeys(near))}?" if near else f"There are: {', '.join(known)}."
        raise ValueError(f"There is no setting {key!r}. {hint}")


def _reference(c: ConfigDict, key: str) -> config_dict.FieldReference:
    *parts, last = key.split(".")
    for part in parts:
        c = c[part]
    return c.get_ref(last)


def _type_of(c: ConfigDict, key: str) -> type:
    return _reference(c, key).get_type()


def _may_be_none(c: ConfigDict, key: str) -> bool:
    """Whether the schema made a field of its own for the setting, which None is a value of."""
    return key in _NULLABLE or (key.startswith("model.") and key.removeprefix("model.") in _nullable_of_model())


_NULLABLE = ("data", "split", "tokenizer", "start", "tower", "keep_every", "spike", "optimizer.clip")


def _nullable_of_model() -> set[str]:
    from siglip_tf import SigLIP

    parameters = inspect.signature(SigLIP.__init__).parameters
    return {name for name, p in parameters.items() if type(None) in typing.get_args(p.annotation)}


def flat(c: ConfigDict) -> dict[str, Any]:
    """Every setting by its dotted key, in order."""
    found: dict[str, Any] = {}
    for key in c:
        value = c[key]
        if isinstance(value, ConfigDict):
            found |= {f"{key}.{inner}": v for inner, v in flat(value).items()}
        else:
            found[key] = value
    return found
