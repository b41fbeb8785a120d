"""What a checkpoint was trained to see, as the config of `siglip_tf.data.Preprocessing`, from and to every format.

A config is {"image": {"size", "method"}, "text": {"length", "lower_case", "eos_id", "pad_id", "punctuation"} | None}.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from siglip_tf.checkpoints.checkpoint import CheckpointError

Config = dict[str, Any]

_GEMMA_VOCAB_SIZE = 256_000
# PIL's resampling numbers, which Hugging Face stores.
_BILINEAR, _BICUBIC = 2, 3


def trained_by_big_vision(dimensions: Mapping[str, Any]) -> Config:
    """What big_vision trained a model of these dimensions on; its files name no preprocessing.

    The vocabulary decides the pad id: 0 for SigLIP 2's Gemma vocabulary, 1 (the EOS) for those of SigLIP.
    """
    image = {"size": dimensions["image_size"], "method": "big_vision"} if "image_size" in dimensions else None
    text = None
    if "text_length" in dimensions:
        pad_id = 0 if dimensions["vocab_size"] == _GEMMA_VOCAB_SIZE else 1
        # big_vision lower-cases bytes (`tf.strings.lower` without an encoding), which touches A to Z only.
        text = _text(dimensions["text_length"], "ascii", pad_id, "keep")
    return {"image": image, "text": text}


def from_hugging_face(
    dimensions: Mapping[str, Any], processor: Mapping[str, Any] | None, tokenizer: Mapping[str, Any] | None
) -> tuple[Config, tuple[str, ...]]:
    """Config and notes from `preprocessor_config.json` and `tokenizer_config.json` (None where a file is absent).

    Raises:
        CheckpointError: the image processor normalises or rescales to something other than [-1, 1].
    """
    notes: list[str] = []
    config = trained_by_big_vision(dimensions)
    if processor is None:
        notes.append("No preprocessor_config.json: images are prepared as big_vision trained them.")
    else:
        _require_unit_range(processor)
        config["image"]["method"] = "bicubic_antialias" if processor.get("resample", 3) == _BICUBIC else "big_vision"
        if processor.get("resample", _BICUBIC) == _BILINEAR:
            notes.append(
                "Its image processor resizes bilinearly; images are resized as big_vision did in training, without "
                "the antialiasing that Pillow and torchvision add."
            )
    if config["text"] is not None and tokenizer is not None:
        kind = tokenizer.get("tokenizer_class", "SiglipTokenizer").removesuffix("Fast")
        config["text"] |= {
            "lower_case": "unicode" if tokenizer.get("do_lower_case", True) else "none",
            "pad_id": 0 if _content(tokenizer.get("pad_token", "</s>")) == "<pad>" else 1,
            "punctuation": "strip" if kind == "SiglipTokenizer" else "keep",
        }
    return config, tuple(notes)


def to_hugging_face(config: Mapping[str, Any] | None, image_size: int) -> tuple[Config, tuple[str, ...]]:
    """Content of `preprocessor_config.json`, and notes on what it cannot say."""
    method = ((config or {}).get("image") or {}).get("method", "big_vision")
    notes: tuple[str, ...] = ()
    if method == "big_vision":
        notes = (
            "Hugging Face's bilinear resize antialiases, big_vision's does not: pixels differ a little where an image "
            "is made much smaller.",
        )
    return {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_processor_type": "SiglipImageProcessor",
        "image_std": [0.5, 0.5, 0.5],
        "processor_class": "SiglipProcessor",
        "resample": _BILINEAR if method == "big_vision" else _BICUBIC,
        "rescale_factor": 1 / 255,
        "size": {"height": image_size, "width": image_size},
    }, notes


def from_keras_hub(
    dimensions: Mapping[str, Any], converter: Mapping[str, Any] | None, preprocessor: Mapping[str, Any] | None
) -> tuple[Config, tuple[str, ...]]:
    """Config and notes from the `config` of `image_converter.json` and `preprocessor.json` (None where absent)."""
    notes: list[str] = []
    config = trained_by_big_vision(dimensions)
    if converter is None:
        notes.append("No image_converter.json: images are prepared as big_vision trained them.")
    else:
        kind = (converter.get("interpolation", "bilinear"), bool(converter.get("antialias", False)))
        config["image"]["method"] = "bicubic_antialias" if kind[0] == "bicubic" else "big_vision"
        if kind not in (("bicubic", True), ("bilinear", False)):
            notes.append(
                f"Its image converter resizes by {kind[0]}, antialias {kind[1]}; "
                f"the nearest method here is {config['image']['method']}."
            )
        if converter.get("crop_to_aspect_ratio", True) or converter.get("pad_to_aspect_ratio", False):
            notes.append("Its image converter keeps the aspect ratio; here it is squashed, as SigLIP was trained.")
    if preprocessor is not None:
        canonical = preprocessor.get("canonicalize_text", True)
        # KerasHub pads with EOS whatever the vocabulary; the model was trained with the pad of its vocabulary.
        config["text"] |= {
            "length": dimensions["text_length"],
            "lower_case": "ascii" if canonical else "none",
            "punctuation": "strip" if canonical else "keep",
        }
    return config, tuple(notes)


def to_keras_hub(config: Mapping[str, Any] | None, image_size: int, text_length: int) -> tuple[Config, Config]:
    """The `config` of KerasHub's `SigLIPImageConverter` and the options of its `SigLIPPreprocessor`."""
    image, text = (config or {}).get("image") or {}, (config or {}).get("text") or {}
    bicubic = image.get("method", "big_vision") == "bicubic_antialias"
    converter = {
        "image_size": [image_size, image_size],
        "scale": 1 / 127.5,
        "offset": -1.0,
        "interpolation": "bicubic" if bicubic else "bilinear",
        "antialias": bicubic,
        "crop_to_aspect_ratio": False,
        "pad_to_aspect_ratio": False,
        "bounding_box_format": "yxyx",
    }
    return converter, {"sequence_length": text_length, "canonicalize_text": text.get("punctuation") == "strip"}


def _text(length: int, lower_case: str, pad_id: int, punctuation: str) -> Config:
    return {"length": length, "lower_case": lower_case, "eos_id": 1, "pad_id": pad_id, "punctuation": punctuation}


def _content(token: Any) -> str | None:
    """The text of a special token, which is a string or an object with its text in `content`."""
    return token.get("content") if isinstance(token, Mapping) else token


def _require_unit_range(processor: Mapping[str, Any]) -> None:
    mean, std = processor.get("image_mean", [0.5] * 3), processor.get("image_std", [0.5] * 3)
    factor = processor.get("rescale_factor", 1 / 255)
    if list(mean) != [0.5] * 3 or list(std) != [0.5] * 3 or abs(factor * 255 - 1) > 1e-3:
        raise CheckpointError(
            f"Its image processor has mean {mean}, std {std} and rescale factor {factor}; SigLIP's images are "
            "(pixel / 255 - 0.5) / 0.5. It is not a SigLIP processor."
        )
