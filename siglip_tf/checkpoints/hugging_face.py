"""Hugging Face's `SiglipModel`: config.json, model.safetensors (or shards), image processor, and tokenizer files.

SigLIP 2 checkpoints with a fixed resolution are also of the class `SiglipModel`.

Source: transformers `models/siglip/{configuration,modeling}_siglip.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from siglip_tf.checkpoints import architecture as arch
from siglip_tf.checkpoints import preprocessing
from siglip_tf.checkpoints.architecture import PUBLIC_TOWERS
from siglip_tf.checkpoints.checkpoint import Checkpoint, CheckpointError
from siglip_tf.checkpoints.files import (
    ArrayDict,
    as_float32,
    read_json,
    read_safetensors,
    replace_folder,
    write_json,
    write_safetensors,
)
from siglip_tf.checkpoints.hugging_face_processor import (
    LEGACY_PROCESSOR,
    PROCESSOR,
    fold_normalization,
    image_processor,
    max_patches,
    read_processor,
    resize_method,
)
from siglip_tf.checkpoints.hugging_face_tokenizer import FILES as TOKENIZER_FILES
from siglip_tf.checkpoints.hugging_face_tokenizer import read_tokenizer, write_tokenizer
from siglip_tf.checkpoints.translation import (
    as_siglip_of_others,
    canonical_names,
    collect,
    depth,
    rename_by,
)

FORMAT = "hugging_face"
CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"

_TO_FOREIGN = rename_by(
    (
        (r"/head/attention/(query|key|value)/kernel$", "/head/attention/in_proj_weight"),
        (r"/head/attention/(query|key|value)/bias$", "/head/attention/in_proj_bias"),
        (r"/head/attention/out/", "/head/attention/out_proj/"),
        (r"/head/mlp_norm/", "/head/layernorm/"),
        (r"/block_(\d+)/", r"/encoder/layers/\1/"),
        (r"/attention_norm/", "/layer_norm1/"),
        (r"/mlp_norm/", "/layer_norm2/"),
        (r"/layers/(\d+)/attention/([qkv])\w+/", r"/layers/\1/self_attn/\2_proj/"),
        (r"/layers/(\d+)/attention/out/", r"/layers/\1/self_attn/out_proj/"),
        (r"^image/final_norm/", "image/post_layernorm/"),
        (r"^text/final_norm/", "text/final_layer_norm/"),
        (r"/(patch_embedding)/", r"/embeddings/\1/"),
        (r"/token_embedding/embedding$", "/embeddings/token_embedding/weight"),
        (r"/position_embedding$", "/embeddings/position_embedding/weight"),
        (r"^image/", "vision_model/"),
        (r"^text/", "text_model/"),
        (r"/(kernel|scale)$", "/weight"),
        (r"^log_temperature$", "logit_scale"),
        (r"^bias$", "logit_bias"),
        (r"/", "."),
    )
)
_IGNORE = r".*\.position_ids"

# Public configurations contain only the values that differ from these.
_TOWER_DEFAULTS = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
}
_IMAGE_DEFAULTS = {**_TOWER_DEFAULTS, "image_size": 224, "patch_size": 16, "num_channels": 3, "num_patches": 256}
_TEXT_DEFAULTS = {**_TOWER_DEFAULTS, "max_position_embeddings": 64, "vocab_size": 32_000}


def foreign_name(name: str) -> str:
    """Returns Hugging Face's name for a canonical name. Query, key, and value of the MAP head share one name."""
    return _TO_FOREIGN(name)


def recognizes(config: Any) -> bool:
    """Whether the content of a `config.json` file is that of a Hugging Face model."""
    return isinstance(config, dict) and "model_type" in config


def read(path: Path, resize: str | None = None) -> Checkpoint:
    """Reads a folder, or a safetensors file with its `config.json` beside it. A `Siglip2Model` is a NaFlex model.

    Args:
        path: the folder or the file.
        resize: a method of `siglip_tf.data.ImagePreprocessing` to use instead of the image processor's.

    Raises:
        CheckpointError: if the architecture is another, a file is damaged, or the weights do not match the
            configuration.
    """
    folder = path if path.is_dir() else path.parent
    notes: tuple[str, ...] = ()
    model_type = "siglip"
    if (folder / CONFIG).is_file():
        config = read_json(folder / CONFIG)
        vision, text = _tower_configs(config, str(folder))
        model_type = config["model_type"].removesuffix("_vision_model")
        arrays = _read_arrays(path)
    else:
        arrays = _read_arrays(path)
        vision, text, notes = _guess_tower_configs(arrays, str(path))
    weights, more = _to_canonical(arrays, vision, text, str(path))
    notes += more
    processor, more = read_processor(folder)
    notes += more
    size = None if model_type == "siglip2" else _square(vision["image_size"], str(path))
    dimensions = arch.infer(weights, size, str(path), max_patches(processor))
    if ("max_patches" in dimensions) != (model_type == "siglip2"):
        shape = weights["image/patch_embedding/kernel"].shape
        raise CheckpointError(
            f"{path} has a patch_embedding of shape {shape}, which is not that of model_type {model_type!r}: NaFlex "
            "models (siglip2) have a matrix, those of a fixed resolution (siglip) a convolution."
        )
    _compare_with_config(dimensions, vision, text, str(path))
    weights = arch.whole(weights, dimensions, str(path))
    weights, more = fold_normalization(weights, processor)
    notes += more
    config = preprocessing.trained_by_big_vision(dimensions)
    config["image"]["method"], more = resize_method(processor, dimensions, resize)
    notes += more
    tokenizer, config["text"], more = read_tokenizer(folder, config["text"], model_type)
    return Checkpoint(
        architecture=arch.arguments(dimensions),
        weights=weights,
        preprocessing=config,
        format=FORMAT,
        tokenizer=tokenizer,
        source=str(path),
        notes=notes + more,
    )


def write(path: Path, checkpoint: Checkpoint) -> tuple[str, ...]:
    """Writes a folder for `SiglipModel.from_pretrained`, or for `Siglip2Model` if this is a NaFlex model.

    A token bottleneck is multiplied out. An absent text head becomes the identity.

    Returns:
        Notes on what Hugging Face's files cannot express exactly.

    Raises:
        ValueError: if there is only an image tower, or the pooling is not MAP. `SiglipModel` does not support them.
    """
    weights, a = as_siglip_of_others(checkpoint, FORMAT)
    config = checkpoint.preprocessing or {}
    method = (config.get("image") or {}).get("method", "big_vision")
    processor, notes = image_processor(method, a)
    files = ["README.md", CONFIG, WEIGHTS, PROCESSOR, LEGACY_PROCESSOR, *TOKENIZER_FILES]

    def fill(folder: Path) -> None:
        nonlocal notes
        write_json(folder / CONFIG, _config(a, checkpoint.preprocessing))
        write_json(folder / LEGACY_PROCESSOR, processor)  # both versions of transformers read this one
        write_safetensors(folder / WEIGHTS, _from_canonical(weights), {"format": "pt"})
        if checkpoint.tokenizer is not None:
            notes += write_tokenizer(folder, checkpoint.tokenizer, config.get("text") or {}, a["text_length"])

    replace_folder(path, fill, own_files=files)
    return notes


def _tower_configs(config: Mapping[str, Any], source: str) -> tuple[dict[str, Any], dict[str, Any] | None]:
    kind = config.get("model_type")
    if kind in ("siglip", "siglip2"):
        vision, text = config.get("vision_config") or {}, config.get("text_config") or {}
    elif kind in ("siglip_vision_model", "siglip2_vision_model"):
        vision, text = config, None
    else:
        raise CheckpointError(
            f"{source} is a Hugging Face model of type {kind!r}; expected 'siglip', or 'siglip2' for NaFlex."
        )
    vision = {**_IMAGE_DEFAULTS, **vision}
    text = None if text is None else {**_TEXT_DEFAULTS, **text}
    for tower in filter(None, (vision, text)):
        if tower["hidden_act"] not in ("gelu_pytorch_tanh", "gelu_new", "gelu_fast"):
            raise CheckpointError(f"{source} uses the activation {tower['hidden_act']!r}; SigLIP's is the tanh GELU.")
        if abs(tower["layer_norm_eps"] - 1e-6) > 1e-12:
            raise CheckpointError(f"{source} uses layer_norm_eps {tower['layer_norm_eps']}; SigLIP's is 1e-6.")
    if vision["num_channels"] != 3 or not vision.get("vision_use_head", True):
        raise CheckpointError(f"{source} has {vision['num_channels']} channels or no MAP head; expected 3 and one.")
    return vision, text


def _guess_tower_configs(arrays: ArrayDict, source: str) -> tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]:
    """Infers configurations from shapes. The number of heads, which no shape shows, is that of the public variant."""
    towers = []
    for tower, prefix in (("image", "vision_model"), ("text", "text_model")):
        fc1, layers = arrays.get(f"{prefix}.encoder.layers.0.mlp.fc1.weight"), f"{prefix}.encoder.layers."
        size = None if fc1 is None else (fc1.shape[1], depth(arrays, rf"{re.escape(layers)}(\d+)\."), fc1.shape[0])
        heads = next((public[3] for public in PUBLIC_TOWERS.values() if public[:3] == size), None)
        if heads is None:
            raise CheckpointError(
                f"{source} has no {CONFIG} beside it, and its weights do not say how many attention heads its {tower} "
                f"tower has (width, depth, MLP: {size}, no public SigLIP's). Put the model's {CONFIG} there."
            )
        keys = ("hidden_size", "num_hidden_layers", "intermediate_size")
        towers.append({**dict(zip(keys, size, strict=True)), "num_attention_heads": heads})
    vision, text = towers
    positions, patch = (arrays[f"vision_model.embeddings.{n}_embedding.weight"].shape for n in ("position", "patch"))
    vision |= {"patch_size": patch[2], "image_size": arch.likely_image_size(positions[0], patch[2], source)}
    text["vocab_size"] = arrays["text_model.embeddings.token_embedding.weight"].shape[0]
    text["max_position_embeddings"] = arrays["text_model.embeddings.position_embedding.weight"].shape[0]
    both = f"{vision['num_attention_heads']} and {text['num_attention_heads']}"
    return vision, text, (f"No {CONFIG}: {both} attention heads, as the public towers of these sizes have.",)


def _read_arrays(path: Path) -> ArrayDict:
    if path.is_file():
        return read_safetensors(path)
    if (path / WEIGHTS).is_file():
        return read_safetensors(path / WEIGHTS)
    if (path / INDEX).is_file():
        arrays: ArrayDict = {}
        for name in sorted(set(read_json(path / INDEX)["weight_map"].values())):
            if Path(name).name != name or not (path / name).is_file():
                raise CheckpointError(f"{path} lacks the shard {name!r} that its {INDEX} names.")
            arrays |= read_safetensors(path / name)
        return arrays
    if (path / "pytorch_model.bin").is_file():
        raise CheckpointError(f"{path} holds pytorch_model.bin, a pickle. Save it with safe_serialization=True.")
    raise CheckpointError(f"{path} holds neither {WEIGHTS} nor {INDEX}.")


def _to_canonical(
    arrays: ArrayDict, vision: Mapping[str, Any], text: Mapping[str, Any] | None, source: str
) -> tuple[ArrayDict, tuple[str, ...]]:
    names = canonical_names(vision["num_hidden_layers"], "map", text["num_hidden_layers"] if text else None)
    table = {name: foreign_name(name) for name in names}
    if text is None and depth(arrays, r"encoder\.layers\.(\d+)\."):  # a tower that is saved alone has no prefix
        table = {name: foreign.removeprefix("vision_model.") for name, foreign in table.items()}
    found = collect(arrays, table, source, _IGNORE)
    heads = {"image": vision["num_attention_heads"], "text": text and text["num_attention_heads"]}
    weights = {}
    for name, array in found.items():
        try:
            weights[name] = _from_torch(name, as_float32(array, table[name]), heads.get(name.split("/")[0]))
        except ValueError as error:
            raise CheckpointError(
                f"{source} has {table[name]} of shape {array.shape}, which does not fit its {CONFIG}: {error}"
            ) from error
    dtypes = {str(array.dtype) for array in arrays.values()} - {"float32", "int64"}
    return weights, (f"Widened to float32 from {', '.join(sorted(dtypes))}.",) if dtypes else ()


def _from_torch(name: str, array: np.ndarray, heads: int | None) -> np.ndarray:
    if name.startswith("image/head/attention/") and "/out/" not in name:
        part = ("query", "key", "value").index(name.split("/")[3])
        if array.shape[0] % 3:
            raise ValueError("its first axis does not hold query, key and value")
        array = np.split(array, 3)[part]
    match name.rsplit("/", 2)[-2:]:
        case ["patch_embedding", "kernel"] if array.ndim == 4:
            array = array.transpose(2, 3, 1, 0)  # (d, 3, P, P) to (P, P, 3, d); a NaFlex kernel is a matrix
        case ["query" | "key" | "value", "kernel"]:
            array = array.T.reshape(array.shape[1], heads, -1)  # (H k, d) to (d, H, k)
        case ["query" | "key" | "value", "bias"]:
            array = array.reshape(heads, -1)
        case ["out", "kernel"]:
            array = array.T.reshape(heads, -1, array.shape[0])  # (d, H k) to (H, k, d)
        case [_, "kernel"]:
            array = array.T
        case [_, "position_embedding"]:
            array = array[None]
        case ["log_temperature"] | ["bias"]:
            array = array.reshape(())
    return array


def _from_canonical(weights: ArrayDict) -> ArrayDict:
    arrays: ArrayDict = {}
    for name, array in weights.items():
        foreign = foreign_name(name)
        value = _to_torch(name, array)
        # Query, key, and value of the head come in this order, and are stacked in it.
        arrays[foreign] = np.concatenate([arrays[foreign], value]) if foreign in arrays else value
    return arrays


def _to_torch(name: str, array: np.ndarray) -> np.ndarray:
    match name.rsplit("/", 2)[-2:]:
        case ["patch_embedding", "kernel"] if array.ndim == 4:
            array = array.transpose(3, 2, 0, 1)
        case ["query" | "key" | "value", "kernel"]:
            array = array.reshape(array.shape[0], -1).T
        case ["query" | "key" | "value", "bias"]:
            array = array.reshape(-1)
        case ["out", "kernel"]:
            array = array.reshape(-1, array.shape[-1]).T
        case [_, "kernel"]:
            array = array.T
        case [_, "position_embedding"]:
            array = array[0]
        case ["log_temperature"] | ["bias"]:
            array = array.reshape(1)
    return array


def _square(size: Any, source: str) -> int:
    sides = {size} if isinstance(size, int) else set(size)
    if len(sides) != 1:
        raise CheckpointError(f"{source} takes images of {size}; expected squares.")
    return sides.pop()


def _compare_with_config(
    dimensions: Mapping[str, Any], vision: Mapping[str, Any], text: Mapping[str, Any] | None, source: str
) -> None:
    pairs = [
        ("image_width", vision["hidden_size"]),
        ("image_mlp_dim", vision["intermediate_size"]),
        ("patch_size", _square(vision["patch_size"], source)),
    ]
    if text is not None:
        pairs += [
            ("text_width", text["hidden_size"]),
            ("text_mlp_dim", text["intermediate_size"]),
            ("text_length", text["max_position_embeddings"]),
            ("vocab_size", text["vocab_size"]),
        ]
    wrong = [f"{key} {dimensions[key]} (configuration: {want})" for key, want in pairs if dimensions[key] != want]
    if wrong:
        raise CheckpointError(f"{source}: the weights do not fit the configuration: {', '.join(wrong)}.")


def _config(a: Mapping[str, Any], config: Mapping[str, Any] | None) -> dict[str, Any]:
    text = (config or {}).get("text") or {}

    def tower(name: str) -> dict[str, Any]:
        return {
            "hidden_size": a[f"{name}_width"],
            "intermediate_size": a[f"{name}_mlp_dim"],
            "num_hidden_layers": a[f"{name}_depth"],
            "num_attention_heads": a[f"{name}_heads"],
            "hidden_act": "gelu_pytorch_tanh",
            "layer_norm_eps": 1e-6,
            "attention_dropout": 0.0,
        }

    naflex = "max_patches" in a
    kind = "siglip2" if naflex else "siglip"
    positions = (
        {"num_patches": (a["image_size"] // a["patch_size"]) ** 2} if naflex else {"image_size": a["image_size"]}
    )
    return {
        "architectures": ["Siglip2Model" if naflex else "SiglipModel"],
        "model_type": kind,
        "dtype": "float32",
        "torch_dtype": "float32",  # the key that transformers 4 reads
        "text_config": {
            "model_type": f"{kind}_text_model",
            **tower("text"),
            "max_position_embeddings": a["text_length"],
            "vocab_size": a["vocab_size"],
            "projection_size": a["embed_dim"],
            "bos_token_id": None,
            "eos_token_id": text.get("eos_id", 1),
            "pad_token_id": text.get("pad_id", 1),
        },
        "vision_config": {
            "model_type": f"{kind}_vision_model",
            **tower("image"),
            **positions,
            "patch_size": a["patch_size"],
            "num_channels": 3,
        },
    }
