"""The settings of a recipe, each with a default, a type, and its allowed values.

A recipe calls `settings(...)` with its own values. Other settings keep the default of `siglip_tf.experiments.schema`.
`--set key=value` is checked against the same table before TensorFlow is imported.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict, config_dict

from siglip_tf.experiments.schema import FORMER_DEFAULTS, SCHEMA


def settings(
    *,
    batch: int,
    duration: str,
    model: Mapping[str, Any],
    optimizer: Mapping[str, Any],
    schedule: Mapping[str, Any],
    **more: Any,
) -> ConfigDict:
    """Returns a recipe's settings. They are locked: unknown keys and values outside the schema are refused.

    Args:
        batch: number of pairs per step over all replicas.
        duration: the length of the run, such as "9B examples", "65k steps", or "30 epochs".
        model: arguments of `siglip_tf.SigLIP`, and "dtype", which is a Keras dtype policy or "auto" for the policy that
            suits the machine (`siglip_tf.distribution.recommended_dtype_policy`).
        optimizer: keys of `schema.OPTIMIZER`.
        schedule: keys of `schema.SCHEDULE`.
        **more: any other keys of `schema.SCHEMA`. A group of settings such as `tune` is a mapping.

    Raises:
        ValueError: if a key is unknown or a value is not allowed.
    """
    c = ConfigDict(type_safe=True)
    for key, setting in SCHEMA.items():
        *parts, last = key.split(".")
        part = c
        for name in parts:
            if name not in part:
                part[name] = ConfigDict(type_safe=True)
            part = part[name]
        part[last] = config_dict.FieldReference(setting.default, field_type=setting.kind)
    c.lock()
    given = {"batch": batch, "duration": duration, "model": model, "optimizer": optimizer, "schedule": schedule, **more}
    for key, value in given.items():
        if isinstance(value, Mapping):
            for inner, each in value.items():
                set_value(c, f"{key}.{inner}", each)
        else:
            set_value(c, key, value)
    return c


def override(c: ConfigDict, assignments: Iterable[str]) -> None:
    """Applies assignments such as `batch=4096` or `optimizer.learning_rate=3e-4`.

    Raises:
        ValueError: if a text has no "=", a key is unknown, or a value is not allowed.
    """
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"Expected --set key=value. Received: {text!r}")
        key = key.strip()
        set_value(c, key, _read(value.strip(), key))


def set_value(c: ConfigDict, key: str, value: Any) -> None:
    """Sets one setting.

    Raises:
        ValueError: if the key is unknown or the value is not allowed.
    """
    setting = SCHEMA[require(key)]
    if isinstance(value, float) and setting.kind is int and value.is_integer():
        value = int(value)  # accept 4e3 for 4000
    if isinstance(value, int) and not isinstance(value, bool) and setting.kind is float:
        value = float(value)
    setting.check(key, value)
    c.update_from_flattened_dict({key: value})


def keep_former(c: ConfigDict, former: Mapping[str, Any] | None) -> None:
    """Sets, for a run of an earlier version, the values that were its defaults.

    Args:
        c: the settings.
        former: the settings that the run's folder holds, by dotted key, or None if there is no run.
    """
    for key, default in FORMER_DEFAULTS.items():
        if former is not None and c[key] is None and (value := former.get(key, default)) is not None:
            set_value(c, key, value)


def require(key: str) -> str:
    """Returns the key if there is such a setting.

    Raises:
        ValueError: if there is none. The message names similar keys.
    """
    if key not in SCHEMA:
        near = difflib.get_close_matches(key, SCHEMA, n=3, cutoff=0.5)
        near += [name for name in SCHEMA if name.endswith(f".{key}")]
        hint = f"Did you mean {', '.join(dict.fromkeys(near))}?" if near else f"There are: {', '.join(SCHEMA)}."
        raise ValueError(f"There is no setting {key!r}. {hint}")
    return key


def _read(text: str, key: str) -> Any:
    """Returns the text as a value: unchanged if the setting is a string, else as a Python literal."""
    setting = SCHEMA[require(key)]
    if text.lower() in ("none", "null") and setting.optional:
        return None
    if setting.kind is str:
        return text
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def flat(c: ConfigDict) -> dict[str, Any]:
    """Returns every setting by its dotted key, in order."""
    found: dict[str, Any] = {}
    for key in c:
        value = c[key]
        if isinstance(value, ConfigDict):
            found |= {f"{key}.{inner}": v for inner, v in flat(value).items()}
        else:
            found[key] = value
    return found
