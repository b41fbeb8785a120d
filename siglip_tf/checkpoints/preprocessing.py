"""Converts a checkpoint's preprocessing to a configuration of `siglip_tf.data.Preprocessing`, and back.

The configuration is {"image": {"size", "method"}, "text": {"length", "lower_case", "eos_id", "pad_id", "punctuation"}}.
"text" may be None. "image" of a NaFlex model is {"patch_size", "max_patches", "method"}.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Config = dict[str, Any]

_GEMMA_VOCAB_SIZE = 256_000
# KerasHub's interpolation and antialias for each method of `siglip_tf.data.ImagePreprocessing`.
_KERAS_HUB_RESIZE = {
    "big_vision": ("bilinear", False),
    "bicubic_antialias": ("bicubic", True),
    "bilinear_antialias": ("bilinear", True),
}


def trained_by_big_vision(dimensions: Mapping[str, Any]) -> Config:
    """Returns the preprocessing with which big_vision trained a model of these dimensions. Its files do not name it.

    The pad id follows from the vocabulary: 0 for SigLIP 2's Gemma vocabulary, and 1 (the EOS) for those of SigLIP.
    """
    image = {"size": dimensions["image_size"], "method": "big_vision"} if "image_size" in dimensions else None
    if "max_patches" in dimensions:
        patch, most = dimensions["patch_size"], dimensions["max_patches"]
        image = {"patch_size": patch, "max_patches": most, "method": "bilinear_antialias"}
    text = None
    if "text_length" in dimensions:
        pad_id = 0 if dimensions["vocab_size"] == _GEMMA_VOCAB_SIZE else 1
        # big_vision lower-cases bytes (`tf.strings.lower` without an encoding), which changes only A to Z.
        text = _text(dimensions["text_length"], "ascii", pad_id, "keep")
    return {"image": image, "text": text}


def from_keras_hub(
    dimensions: Mapping[str, Any],
    converter: Mapping[str, Any] | None,
    preprocessor: Mapping[str, Any] | None,
    resize: str | None = None,
) -> tuple[Config, tuple[str, ...]]:
    """Returns the configuration, and notes, for the files of a KerasHub preset.

    Args:
        dimensions: the dimensions of the model.
        converter: `config` of `image_converter.json`, or None.
        preprocessor: `config` of `preprocessor.json`, or None.
        resize: a method of `siglip_tf.data.ImagePreprocessing` to use instead of the converter's.
    """
    notes: list[str] = []
    config = trained_by_big_vision(dimensions)
    if converter is None:
        notes.append(f"No image_converter.json: images are resized by {resize or 'big_vision'!r}.")
    else:
        kind = (converter.get("interpolation", "bilinear"), bool(converter.get("antialias", False)))
        method = next((name for name, own in _KERAS_HUB_RESIZE.items() if own == kind), None)
        if method is None:
            method = "bicubic_antialias" if kind[0] == "bicubic" else "big_vision"
            notes.append(
                f"Its image converter resizes by {kind[0]}, antialias {kind[1]}; the nearest method here is {method!r}."
            )
        config["image"]["method"] = method
        notes += _pixel_notes(converter)
    if resize is not None:
        config["image"]["method"] = resize
    if preprocessor is not None:
        canonical = preprocessor.get("canonicalize_text", True)
        # KerasHub always pads with EOS. The model was trained with the pad of its vocabulary.
        config["text"] |= {
            "length": dimensions["text_length"],
            "lower_case": "ascii" if canonical else "none",
            "punctuation": "strip" if canonical else "keep",
        }
        if not preprocessor.get("add_end_token", True) or preprocessor.get("add_start_token", False):
            notes.append("Its preprocessor adds other tokens than one EOS; texts here end with one EOS.")
    return config, tuple(notes)


def to_keras_hub(
    config: Mapping[str, Any] | None, image_size: int, text_length: int
) -> tuple[Config, Config, tuple[str, ...]]:
    """Returns the `config` of KerasHub's `SigLIPImageConverter`, the options of `SigLIPPreprocessor`, and notes."""
    image, text = (config or {}).get("image") or {}, (config or {}).get("text") or {}
    interpolation, antialias = _KERAS_HUB_RESIZE[image.get("method", "big_vision")]
    converter = {
        "image_size": [image_size, image_size],
        "scale": 1 / 127.5,
        "offset": -1.0,
        "interpolation": interpolation,
        "antialias": antialias,
        "crop_to_aspect_ratio": False,
        "pad_to_aspect_ratio": False,
        "bounding_box_format": "yxyx",
    }
    strip, lower_case = text.get("punctuation") == "strip", text.get("lower_case", "none")
    notes = []
    if text and not strip and lower_case != "none":
        notes.append("KerasHub lower-cases only where it drops punctuation: give its preprocessor texts in lower case.")
    if strip and lower_case != "ascii":
        notes.append(f"KerasHub lower-cases A to Z alone; this checkpoint's lower-casing is {lower_case!r}.")
    if special := text.get("special_tokens"):
        notes.append(f"KerasHub reads {', '.join(special[:8])} in a text as text; here each is a special token.")
    if text.get("pad_id", 1) != text.get("eos_id", 1):
        notes.append(f"KerasHub's SigLIPPreprocessor pads with EOS; this model's pad id is {text['pad_id']}.")
    return converter, {"sequence_length": text_length, "canonicalize_text": strip}, tuple(notes)


def _pixel_notes(converter: Mapping[str, Any]) -> list[str]:
    notes = []
    if converter.get("crop_to_aspect_ratio", True) or converter.get("pad_to_aspect_ratio", False):
        notes.append("Its image converter keeps the aspect ratio; here it is squashed, as SigLIP was trained.")
    scale, offset = converter.get("scale", 1 / 127.5), converter.get("offset", -1.0)
    if not _close(scale, 1 / 127.5) or not _close(offset, -1.0):
        notes.append(f"Its image converter has scale {scale} and offset {offset}; here pixels become -1 to 1.")
    return notes


def _close(value: Any, wanted: float) -> bool:
    values = value if isinstance(value, list | tuple) else [value]
    return all(isinstance(v, int | float) and abs(v - wanted) <= 1e-6 for v in values)


def _text(length: int, lower_case: str, pad_id: int, punctuation: str) -> Config:
    return {"length": length, "lower_case": lower_case, "eos_id": 1, "pad_id": pad_id, "punctuation": punctuation}
