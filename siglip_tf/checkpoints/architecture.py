"""The architecture that a set of canonical weights belongs to, and the weights that an architecture needs."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, TypeVar

from siglip_tf.checkpoints.checkpoint import CheckpointError, KeyReport

Shape = tuple[int, ...]
ArrayT = TypeVar("ArrayT")

# Resolutions of the public checkpoints. Patch 14 at 384 leaves a rest of 6 pixels, so the grid alone cannot tell 384
# from 378: among the sizes that give the same grid, these come first.
PUBLIC_IMAGE_SIZES = (224, 256, 384, 448, 512, 896)

# (width, depth, MLP width) -> attention heads of the public towers, for files whose shapes do not show the heads.
VARIANT_HEADS = {
    (192, 12, 768): 3,  # Ti
    (384, 12, 1536): 6,  # S
    (512, 12, 2048): 8,  # M
    (768, 12, 3072): 12,  # B
    (1024, 24, 4096): 16,  # L
    (1152, 27, 4304): 16,  # So400m
    (1280, 32, 5120): 16,  # H
    (1408, 40, 6144): 16,  # g
    (1536, 40, 6144): 16,  # g-opt
    (1664, 48, 8192): 16,  # G
    (1536, 48, 8192): 16,  # G-opt
    (1792, 56, 15360): 16,  # e
}


def infer(weights: Mapping[str, Any], image_size: int | None = None, source: str = "The checkpoint") -> dict[str, Any]:
    """Arguments of `SigLIP` read from the shapes of canonical weights.

    Args:
        weights: canonical name -> array (anything with a `shape`), at least the image tower.
        image_size: resolution in pixels where it is known; otherwise the public one, or the least, that fits the grid.
        source: names the checkpoint in errors.

    Returns:
        `image_size`, `patch_size`, `image_width`, `image_depth`, `image_mlp_dim`, `image_heads`, `image_pool`, and for
        two towers `text_length`, `vocab_size`, `text_width`, `text_depth`, `text_mlp_dim`, `text_heads`,
        `token_bottleneck` (None for a full table), `embed_dim`.

    Raises:
        CheckpointError: a tower's first weights are missing or have the wrong rank, or `image_size` does not fit.
    """
    patch, _, _, width = _shape(weights, "image/patch_embedding/kernel", 4, source)
    _, positions, _ = _shape(weights, "image/position_embedding", 3, source)
    architecture = {
        "image_size": _image_size(positions, patch, image_size, source),
        "patch_size": patch,
        **_tower(weights, "image", width, source),
        "image_pool": _pool(weights),
    }
    if any(name.startswith("text/") for name in weights):
        vocab_size, token_width = _shape(weights, "text/token_embedding/embedding", 2, source)
        _, text_length, text_width = _shape(weights, "text/position_embedding", 3, source)
        architecture |= {
            "text_length": text_length,
            "vocab_size": vocab_size,
            **_tower(weights, "text", text_width, source),
            "token_bottleneck": token_width if "text/token_embedding/projection" in weights else None,
            "embed_dim": _shape(weights, "text/head/kernel", 2, source)[1],
        }
    return architecture


def expected_shapes(architecture: Mapping[str, Any]) -> dict[str, Shape]:
    """Canonical name -> shape of every weight of an architecture in `infer`'s terms, in the model's order."""
    a = architecture
    d, mlp, heads, patch = a["image_width"], a["image_mlp_dim"], a["image_heads"], a["patch_size"]
    shapes: dict[str, Shape] = {
        "image/patch_embedding/kernel": (patch, patch, 3, d),
        "image/patch_embedding/bias": (d,),
        "image/position_embedding": (1, (a["image_size"] // patch) ** 2, d),
    }
    if a["image_pool"] == "tok":
        shapes["image/class_token"] = (1, 1, d)
    shapes |= _encoder("image", a["image_depth"], d, mlp, heads)
    if a["image_pool"] == "map":
        shapes["image/head/probe"] = (1, 1, d)
        shapes |= _attention("image/head/attention", d, heads)
        shapes |= _norm("image/head/mlp_norm", d) | _mlp("image/head/mlp", d, mlp)
    if "text_width" in a:
        w, k = a["text_width"], a["token_bottleneck"]
        shapes["text/token_embedding/embedding"] = (a["vocab_size"], k or w)
        if k:
            shapes["text/token_embedding/projection"] = (k, w)
        shapes["text/position_embedding"] = (1, a["text_length"], w)
        shapes |= _encoder("text", a["text_depth"], w, a["text_mlp_dim"], a["text_heads"])
        shapes |= {"text/head/kernel": (w, a["embed_dim"]), "text/head/bias": (a["embed_dim"],)}
        shapes |= {"log_temperature": (), "bias": ()}
    return shapes


def compare(weights: Mapping[str, Any], shapes: Mapping[str, Shape]) -> KeyReport:
    """Which keys of `weights` (name -> array) differ from `shapes` (name -> shape), and how."""
    found = {name: tuple(array.shape) for name, array in weights.items()}
    return KeyReport(
        missing=tuple(n for n in shapes if n not in found),
        unexpected=tuple(n for n in found if n not in shapes),
        misshapen={n: (found[n], s) for n, s in shapes.items() if n in found and found[n] != tuple(s)},
    )


def whole(weights: Mapping[str, ArrayT], architecture: Mapping[str, Any], source: str) -> dict[str, ArrayT]:
    """`weights` in the model's order; a `CheckpointError` with the lists of keys unless they are exactly its own."""
    shapes = expected_shapes(architecture)
    compare(weights, shapes).require_empty(source)
    return {name: weights[name] for name in shapes}


def grid_side(positions: int, source: str = "The checkpoint") -> int:
    """Side of the square grid of patches; `CheckpointError` where `positions` is no square."""
    side = math.isqrt(positions)
    if side * side != positions:
        raise CheckpointError(f"{source} has {positions} image positions, which is no square grid of patches.")
    return side


def likely_image_size(positions: int, patch: int, source: str = "The checkpoint") -> int:
    """Resolution in pixels that gives this many positions: the public one where there is one, else the least."""
    least = grid_side(positions, source) * patch
    return next((size for size in PUBLIC_IMAGE_SIZES if size in range(least, least + patch)), least)


def _image_size(positions: int, patch: int, image_size: int | None, source: str) -> int:
    if image_size is None:
        return likely_image_size(positions, patch, source)
    least = grid_side(positions, source) * patch
    if image_size not in range(least, least + patch):
        raise CheckpointError(
            f"{source} has {positions} image positions of patch {patch}, so its resolution lies in "
            f"{least} to {least + patch - 1} pixels; its configuration says {image_size}."
        )
    return image_size


def _tower(weights: Mapping[str, Any], tower: str, width: int, source: str) -> dict[str, int]:
    numbers = {int(m[1]) for name in weights if (m := re.match(rf"{tower}/block_(\d+)/", name))}
    if not numbers:
        raise CheckpointError(f"{source} has no transformer block in its {tower} tower.")
    heads = _shape(weights, f"{tower}/block_{min(numbers)}/attention/query/kernel", 3, source)[1]
    mlp_dim = _shape(weights, f"{tower}/block_{min(numbers)}/mlp/fc1/kernel", 2, source)[1]
    return {
        f"{tower}_width": width,
        f"{tower}_depth": max(numbers) + 1,
        f"{tower}_mlp_dim": mlp_dim,
        f"{tower}_heads": heads,
    }


def _pool(weights: Mapping[str, Any]) -> str:
    if any(name.startswith("image/head/") for name in weights):
        return "map"
    return "tok" if "image/class_token" in weights else "gap"


def _shape(weights: Mapping[str, Any], name: str, rank: int, source: str) -> Shape:
    if name not in weights:
        raise CheckpointError(f"{source} lacks {name}, so it is not a whole model of this kind.")
    shape = tuple(weights[name].shape)
    if len(shape) != rank:
        raise CheckpointError(f"{source} has {name} of shape {shape}; expected {rank} axes.")
    return shape


def _norm(prefix: str, d: int) -> dict[str, Shape]:
    return {f"{prefix}/scale": (d,), f"{prefix}/bias": (d,)}


def _attention(prefix: str, d: int, heads: int) -> dict[str, Shape]:
    k = d // heads
    shapes: dict[str, Shape] = {}
    for part in ("query", "key", "value"):
        shapes |= {f"{prefix}/{part}/kernel": (d, heads, k), f"{prefix}/{part}/bias": (heads, k)}
    return shapes | {f"{prefix}/out/kernel": (heads, k, d), f"{prefix}/out/bias": (d,)}


def _mlp(prefix: str, d: int, mlp_dim: int) -> dict[str, Shape]:
    return {
        f"{prefix}/fc1/kernel": (d, mlp_dim),
        f"{prefix}/fc1/bias": (mlp_dim,),
        f"{prefix}/fc2/kernel": (mlp_dim, d),
        f"{prefix}/fc2/bias": (d,),
    }


def _encoder(tower: str, depth: int, d: int, mlp_dim: int, heads: int) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {}
    for i in range(depth):
        block = f"{tower}/block_{i}"
        shapes |= _norm(f"{block}/attention_norm", d) | _attention(f"{block}/attention", d, heads)
        shapes |= _norm(f"{block}/mlp_norm", d) | _mlp(f"{block}/mlp", d, mlp_dim)
    return shapes | _norm(f"{tower}/final_norm", d)
