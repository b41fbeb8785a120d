"""Checkpoints of big_vision's two towers: one npz file with `img/...`, `txt/...`, `t`, and `b`.

Source: big_vision `models/vit.py`, `models/proj/image_text/{two_towers,text_transformer}.py`, `utils.py`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from siglip_tf.checkpoints import architecture as arch
from siglip_tf.checkpoints import preprocessing
from siglip_tf.checkpoints.checkpoint import Checkpoint, CheckpointError
from siglip_tf.checkpoints.files import ArrayDict, as_float32, read_npz, replace_file, write_npz
from siglip_tf.checkpoints.translation import canonical_names, collect, depth, fold_bottleneck, rename_by
from siglip_tf.storage import write_file

FORMAT = "big_vision"

_BLOCK = (
    (r"/block_(\d+)/", r"/Transformer/encoderblock_\1/"),
    (r"/final_norm/", "/Transformer/encoder_norm/"),
    (r"/head/(?=probe|attention|mlp)", "/MAPHead_0/"),
    (r"/MAPHead_0/mlp_norm/", "/MAPHead_0/LayerNorm_0/"),
    (r"/attention_norm/", "/LayerNorm_0/"),
    (r"/mlp_norm/", "/LayerNorm_1/"),
    (r"/attention/", "/MultiHeadDotProductAttention_0/"),
    (r"/mlp/fc1/", "/MlpBlock_0/Dense_0/"),
    (r"/mlp/fc2/", "/MlpBlock_0/Dense_1/"),
)
_TO_FOREIGN = rename_by(
    (
        *_BLOCK,
        (r"^text/token_embedding/", "txt/Embed_0/"),
        (r"^text/Transformer/", "txt/Encoder_0/"),
        (r"^text/", "txt/"),
        (r"^image/patch_embedding/", "img/embedding/"),
        (r"^image/class_token$", "img/cls"),
        (r"^image/", "img/"),
        (r"/position_embedding$", "/pos_embedding"),
        (r"^log_temperature$", "t"),
        (r"^bias$", "b"),
    )
)

# Prefixes of the parameters in files that hold other arrays too. The second one is from the time before optax.
_PREFIXES = ("params/", "opt/target/")


def foreign_name(name: str) -> str:
    """Returns big_vision's name for a canonical name."""
    return _TO_FOREIGN(name)


def parameters(arrays: Mapping[str, np.ndarray]) -> tuple[ArrayDict, tuple[str, ...]]:
    """Returns the parameters among the arrays of an npz file, and notes. The file may also hold optimizer state."""
    for prefix in _PREFIXES:
        chosen = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
        if chosen:
            left = len(arrays) - len(chosen)
            return chosen, (f"Left out {left} arrays beside the parameters (optimizer state).",) if left else ()
    return dict(arrays), ()


def recognizes(names: Iterable[str]) -> bool:
    """Whether the arrays of an npz file are those of big_vision's two towers, or of one of them."""
    return any(re.match(rf"({'|'.join(_PREFIXES)})?(img|txt)/", name) for name in names)


def read(path: Path) -> Checkpoint:
    """Reads a big_vision npz file.

    Each tower may be scanned (`encoderblock/` with a leading depth axis). Arrays may be bfloat16 stored as void. The
    text head may be absent, and very old text towers may hold a second position embedding. A text tower other than
    big_vision's transformer (LiT's BERT) is left out, with a note.

    Raises:
        CheckpointError: if the file is damaged, or does not hold the weights of one whole model.
    """
    found, notes = parameters(read_npz(path))
    arrays, more = normalize(found)
    checkpoint = assemble(arrays, str(path), FORMAT, notes + more)
    beside = _tokenizer_path(path)
    return dataclasses.replace(checkpoint, tokenizer=beside.read_bytes()) if beside.is_file() else checkpoint


def normalize(found: Mapping[str, np.ndarray]) -> tuple[ArrayDict, tuple[str, ...]]:
    """Converts arrays to float32, splits scanned towers into blocks, and updates old names. Also returns notes."""
    notes: list[str] = []
    if widened := {str(a.dtype) for a in found.values()} - {"float32"}:
        names = ", ".join(sorted({"|V2": "bfloat16"}.get(dtype, dtype) for dtype in widened))
        notes.append(f"Widened to float32 from {names}.")
    arrays = {name: as_float32(array, name) for name, array in found.items()}
    for name in [name for name in arrays if "/encoderblock/" in name]:
        stacked = arrays.pop(name)
        for i, array in enumerate(stacked):
            arrays[name.replace("/encoderblock/", f"/encoderblock_{i}/")] = array
    if (extra := arrays.pop("txt/Encoder_0/pos_embedding", None)) is not None:
        arrays["txt/pos_embedding"] = arrays["txt/pos_embedding"] + extra
        notes.append("Added the second text position embedding of a very old checkpoint to the first.")
    foreign_text = [n for n in arrays if n.startswith("txt/")] if "txt/Embed_0/embedding" not in arrays else []
    if foreign_text:
        for name in foreign_text:
            del arrays[name]
        for name in ("t", "b"):
            arrays.pop(name, None)
        notes.append(
            f"Left out the text tower, t and b: it is no SigLIP text transformer but holds {foreign_text[0]} and "
            f"{len(foreign_text) - 1} more (LiT's text towers are BERT). The image tower alone was read."
        )
    return arrays, tuple(notes)


def assemble(arrays: Mapping[str, np.ndarray], source: str, format: str, notes: tuple[str, ...]) -> Checkpoint:
    """Returns the canonical checkpoint for arrays with big_vision's current names.

    Raises:
        CheckpointError: if the arrays are not those of one whole model. The message lists the keys that differ.
    """
    if (positions := arrays.get("img/pos_embedding")) is not None and positions.ndim == 3 and positions.shape[0] > 1:
        # A NaFlex tower stores its positions as a square grid.
        rows, columns, width = positions.shape
        if rows != columns:
            raise CheckpointError(f"{source} has a grid of {rows} x {columns} positions; expected a square one.")
        arrays = {**arrays, "img/pos_embedding": positions.reshape(1, rows * columns, width)}
    pool = "map" if any(n.startswith("img/MAPHead_0/") for n in arrays) else "tok" if "img/cls" in arrays else "gap"
    has_image = any(n.startswith("img/") for n in arrays)
    names = canonical_names(
        depth(arrays, r"img/Transformer/encoderblock_(\d+)/") if has_image else None,
        pool,
        depth(arrays, r"txt/Encoder_0/encoderblock_(\d+)/") if "txt/Embed_0/embedding" in arrays else None,
        head=any(n.startswith("txt/head/") for n in arrays),
        bias="b" in arrays,
    )
    weights = collect(arrays, {name: foreign_name(name) for name in names}, source)
    for name in ("log_temperature", "bias"):
        if name in weights:
            weights[name] = weights[name].reshape(())
    dimensions = arch.infer(weights, source=source)
    return Checkpoint(
        architecture=arch.arguments(dimensions),
        weights=arch.whole(weights, dimensions, source),
        preprocessing=preprocessing.trained_by_big_vision(dimensions),
        format=format,
        source=source,
        notes=notes,
    )


def write(path: Path, checkpoint: Checkpoint) -> tuple[str, ...]:
    """Writes one npz file with the `params/` prefix of big_vision's own files. A token bottleneck is multiplied out.

    The format has no place for the SentencePiece model, which is written beside it as `NAME.tokenizer.model`.

    Returns:
        Notes on what the format cannot express.

    Raises:
        ValueError: if images are not square, because one axis of positions cannot express that.
    """
    notes: tuple[str, ...] = ("big_vision's files name no preprocessing: give it in the config that loads this one.",)
    d = arch.of(checkpoint)
    if (size := d.get("image_size")) is not None:
        if not isinstance(size, int):
            raise ValueError(f"{FORMAT} takes square images; this model takes {size}.")
        likely = arch.likely_image_size((size // d["patch_size"]) ** 2, d["patch_size"])
        if likely != size and "max_patches" not in d:
            notes += (f"The file holds the grid of patches alone and reads as one for {likely} pixels, not {size}.",)
    arrays = {}
    if d.get("max_patches", arch.NAFLEX_PATCHES) != arch.NAFLEX_PATCHES:
        notes += (
            f"The file says nothing of max_patches {d['max_patches']} and reads as one of {arch.NAFLEX_PATCHES}.",
        )
    for name, array in fold_bottleneck(checkpoint).items():
        if name == "image/position_embedding" and "max_patches" in d:
            side = size // d["patch_size"]
            array = array.reshape(side, side, -1)
        arrays[f"params/{foreign_name(name)}"] = array.reshape(1) if array.ndim == 0 else array
    if checkpoint.tokenizer is not None:
        beside = _tokenizer_path(path)
        write_file(beside, checkpoint.tokenizer)
        notes += (f"The SentencePiece model is beside it as {beside.name}.",)
    replace_file(path, lambda aside: write_npz(aside, arrays))
    return notes


def _tokenizer_path(path: Path) -> Path:
    return path.with_name(f"{path.stem}.tokenizer.model")
