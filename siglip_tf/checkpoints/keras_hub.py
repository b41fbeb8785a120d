"""KerasHub's preset folders for `from_preset`: config.json, model.weights.h5, tokenizer, and preprocessor.

Source: keras_hub `models/siglip/`, `utils/preset_utils.py`; keras `saving/saving_lib.py` (the tree in the HDF5 file).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from siglip_tf.checkpoints import architecture as arch
from siglip_tf.checkpoints import preprocessing
from siglip_tf.checkpoints.checkpoint import Checkpoint, CheckpointError
from siglip_tf.checkpoints.files import ArrayDict, as_float32, read_h5, read_json, replace_folder, write_h5, write_json
from siglip_tf.checkpoints.tokenizer_json import sentence_pieces
from siglip_tf.checkpoints.translation import (
    as_siglip_of_others,
    canonical_names,
    collect,
    rename_by,
)

FORMAT = "keras_hub"
CONFIG, WEIGHTS, SHARDS = "config.json", "model.weights.h5", "model.weights.json"
CONVERTER, PREPROCESSOR, TOKENIZER, METADATA = (
    "image_converter.json",
    "preprocessor.json",
    "tokenizer.json",
    "metadata.json",
)
_VOCABULARY = Path("assets", "tokenizer", "vocabulary.spm")

# Keras numbers the variables of a layer in the order of their creation, and the layers of a model by class.
_TO_FOREIGN = rename_by(
    (
        (r"/block_0/", "/sig_lip_encoder_layer/"),
        (r"/block_(\d+)/", r"/sig_lip_encoder_layer_\1/"),
        (r"/head/attention/", "/sig_lip_multi_head_attention_pooling/attention/"),
        (r"/head/mlp_norm/", "/sig_lip_multi_head_attention_pooling/layer_norm/"),
        (r"/head/mlp/", "/sig_lip_multi_head_attention_pooling/mlp/"),
        (r"/head/probe$", "/sig_lip_multi_head_attention_pooling/vars/0"),
        (r"^text/head/", "text/dense/"),
        (r"/attention_norm/", "/layer_norm1/"),
        (r"/mlp_norm/", "/layer_norm2/"),
        (r"/attention/(query|key|value)/", r"/attention/\1_dense/"),
        (r"/attention/out/", "/attention/output_dense/"),
        (r"(sig_lip_encoder_layer\w*)/attention/", r"\1/self_attn/"),
        (r"/final_norm/", "/layer_normalization/"),
        (r"^image/patch_embedding/", "image/sig_lip_vision_embedding/patch_embedding/"),
        (r"^image/position_embedding$", "image/sig_lip_vision_embedding/position_embedding/vars/0"),
        (r"^text/position_embedding$", "text/sig_lip_text_embedding/position_embedding/vars/0"),
        (r"^text/token_embedding/embedding$", "text/sig_lip_text_embedding/token_embedding/vars/0"),
        (r"/(kernel|scale)$", "/vars/0"),
        (r"/bias$", "/vars/1"),
        (r"^image/", "layers/sig_lip_vision_encoder/layers/"),
        (r"^text/", "layers/sig_lip_text_encoder/layers/"),
        (r"^log_temperature$", "layers/sig_lip_head/vars/0"),
        (r"^bias$", "layers/sig_lip_head/vars/1"),
    )
)
# `position_ids` are not weights; they count from 0.
_POSITION_IDS = r"layers/sig_lip_(vision|text)_encoder/layers/sig_lip_(vision|text)_embedding/vars/0"


def foreign_name(name: str) -> str:
    """Returns the path in KerasHub's HDF5 file for a canonical name."""
    return _TO_FOREIGN(name)


def recognizes(config: Any) -> bool:
    """Whether the content of a `config.json` file is that of a KerasHub backbone."""
    return isinstance(config, dict) and "class_name" in config and "config" in config


def read(path: Path, resize: str | None = None) -> Checkpoint:
    """Reads a preset folder.

    Args:
        path: the folder.
        resize: a method of `siglip_tf.data.ImagePreprocessing` to use instead of the image converter's.

    Raises:
        CheckpointError: if the backbone is another, a file is damaged, or the weights do not match the configuration.
    """
    config = read_json(path / CONFIG)
    if config["class_name"] != "SigLIPBackbone":
        raise CheckpointError(f"{path} is a KerasHub {config['class_name']}; expected a SigLIPBackbone.")
    vision, text = (config["config"][f"{tower}_encoder"]["config"] for tower in ("vision", "text"))
    _require_siglip(vision, text, str(path))
    arrays = _read_arrays(path)
    names = canonical_names(vision["num_layers"], "map", text["num_layers"])
    found = collect(arrays, {name: foreign_name(name) for name in names}, str(path), _POSITION_IDS)
    weights = {
        name: array[None] if name.endswith("/position_embedding") else array
        for name, array in ((name, as_float32(array, name)) for name, array in found.items())
    }
    dimensions = arch.infer(weights, vision["image_shape"][0], str(path))
    for key, value in (("image_heads", vision["num_heads"]), ("text_heads", text["num_heads"])):
        if dimensions[key] != value:
            raise CheckpointError(f"{path}: the weights have {key} {dimensions[key]}, {CONFIG} says {value}.")
    converter, preprocessor = (_layer_config(path / name) for name in (CONVERTER, PREPROCESSOR))
    preprocess, notes = preprocessing.from_keras_hub(dimensions, converter, preprocessor, resize)
    vocabulary = path / _VOCABULARY
    return Checkpoint(
        architecture=arch.arguments(dimensions),
        weights=arch.whole(weights, dimensions, str(path)),
        preprocessing=preprocess,
        format=FORMAT,
        tokenizer=vocabulary.read_bytes() if vocabulary.is_file() else None,
        source=str(path),
        notes=notes,
    )


def write(path: Path, checkpoint: Checkpoint) -> tuple[str, ...]:
    """Writes a preset folder. A token bottleneck is multiplied out, and an absent text head becomes the identity.

    Returns:
        Notes on what a KerasHub preset cannot express exactly.

    Raises:
        ValueError: if there is only an image tower, or it is a NaFlex tower or its pooling is not MAP. KerasHub's
            SigLIP does not support them.
    """
    weights, a = as_siglip_of_others(checkpoint, FORMAT)
    if "max_patches" in a:
        raise ValueError(f"{FORMAT} has no NaFlex image tower, which this model has. Write hugging_face or big_vision.")
    arrays = {
        foreign_name(name): array[0] if name.endswith("/position_embedding") else array
        for name, array in weights.items()
    }
    for tower, positions in (("vision", (a["image_size"] // a["patch_size"]) ** 2), ("text", a["text_length"])):
        ids = np.arange(positions, dtype=np.int64)[None]
        arrays[f"layers/sig_lip_{tower}_encoder/layers/sig_lip_{tower}_embedding/vars/0"] = ids
    converter, options, notes = preprocessing.to_keras_hub(checkpoint.preprocessing, a["image_size"], a["text_length"])

    def fill(folder: Path) -> None:
        write_json(folder / CONFIG, _backbone(a))
        write_json(folder / METADATA, {"parameter_count": sum(w.size for w in weights.values()), "tasks": []})
        write_h5(folder / WEIGHTS, arrays)
        image_converter = _layer("siglip_image_converter", "SigLIPImageConverter", converter)
        write_json(folder / CONVERTER, image_converter)
        if checkpoint.tokenizer is not None:
            tokenizer = _layer(
                "siglip_tokenizer", "SigLIPTokenizer", {"config_file": TOKENIZER, "proto": None}, "int32"
            )
            options.update(tokenizer=tokenizer, image_converter=image_converter, config_file=PREPROCESSOR)
            write_json(folder / TOKENIZER, tokenizer)
            write_json(folder / PREPROCESSOR, _layer("siglip_preprocessor", "SigLIPPreprocessor", options))
            (folder / _VOCABULARY).parent.mkdir(parents=True)
            (folder / _VOCABULARY).write_bytes(checkpoint.tokenizer)

    replace_folder(path, fill, (CONFIG, WEIGHTS, METADATA, CONVERTER, PREPROCESSOR, TOKENIZER, _VOCABULARY.parts[0]))
    return notes + _vocabulary_notes(checkpoint.tokenizer)


def _vocabulary_notes(model: bytes | None) -> tuple[str, ...]:
    if model is None:
        return ("No tokenizer in the checkpoint: KerasHub's preset has none either.",)
    pieces = sentence_pieces(model)
    if pieces is None:
        return ("The checkpoint's tokenizer is not a SentencePiece model: KerasHub cannot load it.",)
    missing = [piece for piece in ("<unk>", "</s>") if pieces.id_to_piece(pieces.piece_to_id(piece)) != piece]
    if missing:
        return (f"KerasHub's SigLIPTokenizer needs the pieces <unk> and </s>; the vocabulary lacks {missing[0]}.",)
    return ()


def _require_siglip(vision: Mapping[str, Any], text: Mapping[str, Any], source: str) -> None:
    for tower in (vision, text):
        if tower.get("intermediate_activation", "gelu_approximate") != "gelu_approximate":
            raise CheckpointError(f"{source} uses {tower['intermediate_activation']!r}; SigLIP's is the tanh GELU.")
        if abs(tower.get("layer_norm_epsilon", 1e-6) - 1e-6) > 1e-12:
            raise CheckpointError(f"{source} uses layer_norm_epsilon {tower['layer_norm_epsilon']}; SigLIP's is 1e-6.")
    if len(set(vision["image_shape"][:2])) != 1 or vision["image_shape"][2] != 3:
        raise CheckpointError(f"{source} takes images of shape {vision['image_shape']}; expected (side, side, 3).")


def _read_arrays(path: Path) -> ArrayDict:
    if (path / WEIGHTS).is_file():
        return read_h5(path / WEIGHTS)
    if not (path / SHARDS).is_file():
        raise CheckpointError(f"{path} holds neither {WEIGHTS} nor {SHARDS}.")
    arrays: ArrayDict = {}
    files = read_json(path / SHARDS)["weight_map"].values()
    for name in sorted({n for entry in files for n in ([entry] if isinstance(entry, str) else entry)}):
        if Path(name).name != name or not (path / name).is_file():
            raise CheckpointError(f"{path} lacks the shard {name!r} that its {SHARDS} names.")
        arrays |= read_h5(path / name)
    return arrays


def _layer_config(path: Path) -> Mapping[str, Any] | None:
    return read_json(path).get("config") if path.is_file() else None


def _layer(module: str, class_name: str, config: Mapping[str, Any], dtype: str = "float32") -> dict[str, Any]:
    policy = {"module": "keras", "class_name": "DTypePolicy", "config": {"name": dtype}, "registered_name": None}
    name = re.sub(r"(?<=[a-z])([A-Z])", r"_\1", class_name.replace("SigLIP", "siglip_")).lower().replace("__", "_")
    return {
        "module": f"keras_hub.src.models.siglip.{module}",
        "class_name": class_name,
        "config": {"name": name, "trainable": True, "dtype": policy, **config},
        "registered_name": f"keras_hub>{class_name}",
    }


def _backbone(a: Mapping[str, Any]) -> dict[str, Any]:
    def tower(name: str, more: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "name": "vision_encoder" if name == "image" else "text_encoder",
            "hidden_dim": a[f"{name}_width"],
            "num_layers": a[f"{name}_depth"],
            "num_heads": a[f"{name}_heads"],
            "intermediate_dim": a[f"{name}_mlp_dim"],
            "intermediate_activation": "gelu_approximate",
            "layer_norm_epsilon": 1e-6,
            **more,
        }

    vision = tower("image", {"patch_size": a["patch_size"], "image_shape": [a["image_size"], a["image_size"], 3]})
    text = tower(
        "text",
        {
            "vocabulary_size": a["vocab_size"],
            "embedding_dim": a["text_width"],
            "max_sequence_length": a["text_length"],
            "projection_dim": a["embed_dim"],
        },
    )
    return _layer(
        "siglip_backbone",
        "SigLIPBackbone",
        {
            "vision_encoder": _layer("siglip_vision_encoder", "SigLIPVisionEncoder", vision),
            "text_encoder": _layer("siglip_text_encoder", "SigLIPTextEncoder", text),
        },
    )
