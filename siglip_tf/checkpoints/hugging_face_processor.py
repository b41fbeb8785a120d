"""Converts the image processor of a Hugging Face folder to this package's preprocessing, and back.

transformers 5 saves it inside `processor_config.json`, transformers 4 as `preprocessor_config.json`. An option without
an exact counterpart causes an error that says what to do, or a note.

Source: transformers `image_processing_base.py` (which file is used), `models/siglip/image_processing_siglip.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from siglip_tf.checkpoints import architecture as arch
from siglip_tf.checkpoints.checkpoint import CheckpointError
from siglip_tf.checkpoints.files import ArrayDict, read_json

Processor = Mapping[str, Any]

PROCESSOR, LEGACY_PROCESSOR = "processor_config.json", "preprocessor_config.json"

# Pillow's numbers for its filters, and the equal methods of `siglip_tf.data.ImagePreprocessing`.
_RESAMPLE = {2: "bilinear_antialias", 3: "bicubic_antialias"}
_RESAMPLE_NAMES = {0: "nearest", 1: "Lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "Hamming"}
# The default filter of each class.
_DEFAULT_RESAMPLE = {"SiglipImageProcessor": 3, "Siglip2ImageProcessor": 2, "ViTImageProcessor": 2}
_NAME_IT = 'Name the resize to use instead: resize="bicubic_antialias", or --resize bicubic_antialias in commands.'


def read_processor(folder: Path) -> tuple[Processor | None, tuple[str, ...]]:
    """Returns the options of the image processor, or None if there is none, and notes.

    Raises:
        CheckpointError: if the file is not a JSON object.
    """
    whole, legacy = (_read_object(folder / name) for name in (PROCESSOR, LEGACY_PROCESSOR))
    inside = whole.get("image_processor") if whole else None
    if inside is not None and not isinstance(inside, Mapping):
        raise CheckpointError(f"{folder / PROCESSOR}: expected an object at image_processor. Received: {inside!r}.")
    if inside is None:
        return legacy, ()
    if legacy is not None and any(inside.get(key, value) != value for key, value in legacy.items()):
        return inside, (f"{PROCESSOR} and {LEGACY_PROCESSOR} differ; the first counts, as in transformers 5.",)
    return inside, ()


def resize_method(
    processor: Processor | None, dimensions: Mapping[str, Any], resize: str | None
) -> tuple[str, tuple[str, ...]]:
    """Returns the method of `siglip_tf.data.ImagePreprocessing`, and notes on options without a counterpart.

    Args:
        processor: the options of the image processor, or None.
        dimensions: the dimensions of the model.
        resize: a method that replaces the processor's own resizing and cropping.

    Raises:
        CheckpointError: if no method equals the processor's resizing or cropping, and `resize` is None.
    """
    naflex = "max_patches" in dimensions
    if naflex and resize == "big_vision":
        raise CheckpointError("NaFlex models resize with antialias. Expected resize='bilinear_antialias'.")
    if processor is None:
        default = resize or ("bilinear_antialias" if naflex else "big_vision")
        return default, (f"No {PROCESSOR} or {LEGACY_PROCESSOR}: images are resized by {default!r}.",)
    notes, refused = _convert_rgb(processor, naflex), _refused(processor, dimensions)
    if refused and resize is None:
        raise CheckpointError(f"Its image processor {refused[0]}, and nothing here does the same. {_NAME_IT}")
    notes += tuple(f"Its image processor {what}; images are resized by {resize!r}, as asked." for what in refused)
    if not refused:
        notes += () if naflex else _other_size(processor, dimensions["image_size"], dimensions["patch_size"])
    if not processor.get("do_resize", True):
        notes += ("Its image processor does not resize; here pictures of another size than the model's are resized.",)
    method = _RESAMPLE.get(_resample(processor))
    if resize is not None and method is not None and resize != method:
        notes += (f"Its image processor resizes by {method!r}; images are resized by {resize!r}, as asked.",)
    return resize or method, notes


def fold_normalization(weights: ArrayDict, processor: Processor | None) -> tuple[ArrayDict, tuple[str, ...]]:
    """Folds the processor's mean, deviation, and scale into the weights, so that the model accepts images in [-1, 1].

    The patch embedding is linear, so an affine map of its pixels can be expressed by its kernel and bias.

    Args:
        weights: the canonical weights. Only the patch embedding changes.
        processor: the options of the image processor, or None.

    Returns:
        The weights, and notes.

    Raises:
        CheckpointError: if the mean or the deviation is not three numbers, or a deviation is 0.
    """
    if processor is None:
        return weights, ()
    factor, mean, std = 1.0, np.zeros(3), np.ones(3)
    if processor.get("do_rescale", True):
        factor = _number(processor.get("rescale_factor", 1 / 255), "rescale_factor")
    if processor.get("do_normalize", True):
        mean, std = (_channels(processor.get(key, 0.5), key) for key in ("image_mean", "image_std"))
    if not std.all():
        raise CheckpointError(f"Its image processor has image_std {std.tolist()}; expected numbers other than 0.")
    scale, shift = 127.5 * factor / std, (127.5 * factor - mean) / std
    if np.allclose(scale, 1, rtol=0, atol=1e-6) and np.allclose(shift, 0, rtol=0, atol=1e-6):
        return weights, ()
    kernel, bias = (weights[f"image/patch_embedding/{part}"].astype(np.float64) for part in ("kernel", "bias"))
    by_channel = kernel.reshape(-1, 3, kernel.shape[-1])  # (pixels of a patch, channels, width)
    folded = {
        "image/patch_embedding/kernel": (by_channel * scale[:, None]).reshape(kernel.shape).astype(np.float32),
        "image/patch_embedding/bias": (bias + np.einsum("pcd,c->d", by_channel, shift)).astype(np.float32),
    }
    told = f"mean {mean.tolist()}, deviation {std.tolist()} and factor {factor:.6g}"
    return weights | folded, (
        f"Its image processor normalizes pixels by {told}. The patch embedding was changed to take images in [-1, 1] "
        "and to give the same.",
    )


def max_patches(processor: Processor | None) -> int:
    """Returns the number of patches per picture of a NaFlex model, including padding.

    Raises:
        CheckpointError: if it is not a positive integer.
    """
    most = (processor or {}).get("max_num_patches", arch.NAFLEX_PATCHES)
    if isinstance(most, bool) or not isinstance(most, int) or most < 1:
        raise CheckpointError(f"Its image processor has max_num_patches {most!r}; expected a positive integer.")
    return most


def image_processor(method: str, dimensions: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Returns the content of `preprocessor_config.json` for a resize method of `ImagePreprocessing`, and notes."""
    resample = 3 if method == "bicubic_antialias" else 2
    if "max_patches" in dimensions:
        return {
            **_processor_options("Siglip2ImageProcessor", "Siglip2Processor"),
            "resample": resample,
            "patch_size": dimensions["patch_size"],
            "max_num_patches": dimensions["max_patches"],
        }, ()
    notes: tuple[str, ...] = ()
    if method == "big_vision":
        notes = (
            "Hugging Face's bilinear resize antialiases, big_vision's does not: pixels differ where an image is made "
            "smaller.",
        )
    return {
        **_processor_options("SiglipImageProcessor", "SiglipProcessor"),
        "do_convert_rgb": True,
        "resample": resample,
        "size": {"height": dimensions["image_size"], "width": dimensions["image_size"]},
    }, notes


def _processor_options(kind: str, processor_class: str) -> dict[str, Any]:
    return {
        "image_processor_type": kind,
        "processor_class": processor_class,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "rescale_factor": 1 / 255,
    }


def _read_object(path: Path) -> Processor | None:
    content = read_json(path) if path.is_file() else None
    if content is not None and not isinstance(content, Mapping):
        raise CheckpointError(f"{path} is not a JSON object. Received: {type(content).__name__}.")
    return content


def _kind(processor: Processor) -> str:
    kind = processor.get("image_processor_type", processor.get("feature_extractor_type", "SiglipImageProcessor"))
    return str(kind).removesuffix("Pil").removesuffix("Fast").replace("FeatureExtractor", "ImageProcessor")


def _resample(processor: Processor) -> Any:
    resample = processor.get("resample")
    return _DEFAULT_RESAMPLE.get(_kind(processor), 3) if resample is None else resample


def _refused(processor: Processor, dimensions: Mapping[str, Any]) -> list[str]:
    """Describes the resizing and cropping of the processor that this package does not support."""
    kind, resample, size = _kind(processor), _resample(processor), processor.get("size")
    refused = []
    if ("max_patches" in dimensions) != (kind == "Siglip2ImageProcessor"):
        refused.append(f"is a {kind}, which does not fit the model's image tower")
    if (patch := processor.get("patch_size", dimensions["patch_size"])) != dimensions["patch_size"]:
        refused.append(f"has patch_size {patch!r}, and the model {dimensions['patch_size']}")
    if kind not in _DEFAULT_RESAMPLE:
        refused.append(f"is a {kind}, whose defaults are not SigLIP's")
    if resample not in _RESAMPLE:
        name = _RESAMPLE_NAMES.get(resample) if isinstance(resample, int) else None
        refused.append(f"has resample {resample!r}" + (f" ({name})" if name else ""))
    if isinstance(size, Mapping) and (edges := sorted(key for key in size if key not in ("height", "width"))):
        refused.append(f"has size {dict(size)}: it resizes by {edges[0]} and keeps the aspect")
    if processor.get("do_center_crop"):
        crop = _sides(processor.get("crop_size"))
        if crop is None or crop != arch.sides(dimensions["image_size"]):
            refused.append(f"crops the center (crop_size {processor.get('crop_size')})")
    refused += [f"has {key} {processor[key]!r}" for key in ("do_pad", "do_crop", "do_flip") if processor.get(key)]
    return refused


def _other_size(processor: Processor, image_size: arch.ImageSize, patch_size: int) -> tuple[str, ...]:
    size = _sides(processor.get("size"))
    if size is None or size == arch.sides(image_size):
        return ()
    height, width = size
    more = "" if min(size) < patch_size else f"; image_size={height if height == width else size} makes it take those"
    return (f"Its image processor makes {height} x {width} pixels; this model takes {image_size}{more}.",)


def _sides(size: Any) -> tuple[int, int] | None:
    if isinstance(size, Mapping):
        size = (size.get("height"), size.get("width"))
    if isinstance(size, int) and not isinstance(size, bool):
        size = (size, size)
    whole = isinstance(size, tuple | list) and len(size) == 2 and all(isinstance(side, int) for side in size)
    return (size[0], size[1]) if whole else None


def _convert_rgb(processor: Processor, naflex: bool) -> tuple[str, ...]:
    if processor.get("do_convert_rgb", True) or (naflex and "do_convert_rgb" not in processor):
        return ()
    return ("Its image processor leaves pictures that are not RGB as they are; here they become RGB.",)


def _number(value: Any, key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
        raise CheckpointError(f"Its image processor has {key} {value!r}; expected a number.")
    return float(value)


def _channels(value: Any, key: str) -> np.ndarray:
    values = value if isinstance(value, list | tuple) else [value] * 3
    if len(values) != 3:
        raise CheckpointError(f"Its image processor has {key} {value!r}; expected one number for each of 3 channels.")
    return np.array([_number(v, key) for v in values])
