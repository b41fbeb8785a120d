"""Infers dimensions from canonical weights, and converts dimensions to weight shapes and to arguments of the model.

Dimensions are a dict. An image tower has `image_size`, `patch_size`, `image_width`, `image_depth`, `image_mlp_dim`,
`image_heads`, and `image_pool`; a NaFlex tower also has `max_patches`. A text tower with temperature and bias has
`text_length`, `vocab_size`, `text_width`, `text_depth`, `text_mlp_dim`, `text_heads`, `token_bottleneck` (None if there
is none), `text_head` (whether there is one), `embed_dim`, and `has_bias`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from siglip_tf.checkpoints.checkpoint import Checkpoint, CheckpointError, KeyReport

Shape = tuple[int, ...]
ImageSize = int | Sequence[int]  # the side of a square, or (height, width)
ArrayT = TypeVar("ArrayT")

# Resolutions of the public checkpoints. With patches of 14, the resolutions 384 and 378 have the same grid. These
# resolutions are preferred among all that have the same grid.
PUBLIC_IMAGE_SIZES = (224, 256, 384, 448, 512, 896)

# The default number of patches per picture in transformers and big_vision.
NAFLEX_PATCHES = 256

# Sizes of towers by their usual names: width, depth, MLP width, and heads. The models' `VARIANTS` are built from this
# table. It also identifies the size of a checkpoint, and supplies the number of heads if no shape shows it.
PUBLIC_TOWERS = {
    "mu": (32, 1, 128, 2),
    "Ti": (192, 12, 768, 3),
    "S": (384, 12, 1536, 6),
    "M": (512, 12, 2048, 8),
    "B": (768, 12, 3072, 12),
    "L": (1024, 24, 4096, 16),
    "L*": (1024, 12, 4096, 16),  # Table 1: "a variant of the L model with 12 layers"
    "So400m": (1152, 27, 4304, 16),
    "H": (1280, 32, 5120, 16),
    "g": (1408, 40, 6144, 16),
    "g-opt": (1536, 40, 6144, 16),
    "G": (1664, 48, 8192, 16),
    "G-opt": (1536, 48, 8192, 16),
    "e": (1792, 56, 15360, 16),
}
_SIZE_KEYS = ("width", "depth", "mlp_dim", "heads")


def infer(
    weights: Mapping[str, Any],
    image_size: ImageSize | None = None,
    source: str = "The checkpoint",
    max_patches: int | None = None,
) -> dict[str, Any]:
    """Returns the dimensions that the shapes of canonical weights show.

    Args:
        weights: arrays (anything with a `shape`) of one or both towers, by canonical name.
        image_size: the resolution in pixels if known: the side of a square, or (height, width). By default, a square is
            assumed, with the public resolution that fits the grid, or else the smallest one.
        source: the name of the checkpoint in errors.
        max_patches: the number of patches per picture of a NaFlex tower, whose patch embedding is a matrix.

    Raises:
        CheckpointError: if a tower's first weights are missing or have the wrong rank, `image_size` does not fit, or
            the embeddings of the two towers have different sizes.
    """
    towers = [tower for tower in ("image", "text") if any(name.startswith(f"{tower}/") for name in weights)]
    if not towers:
        raise CheckpointError(f"{source} holds the weights of neither an image nor a text tower.")
    dimensions: dict[str, Any] = {}
    if "image" in towers:
        patch, width, naflex = _patch(weights, source)
        _, positions, _ = _shape(weights, "image/position_embedding", 3, source)
        if naflex:
            image_size = grid_side(positions, source) * patch
            dimensions["max_patches"] = max_patches or NAFLEX_PATCHES
        dimensions |= {
            "image_size": _image_size(positions, patch, image_size, source),
            "patch_size": patch,
            **_tower(weights, "image", width, source),
            "image_pool": _pool(weights),
        }
    if "text" in towers:
        vocab_size, token_width = _shape(weights, "text/token_embedding/embedding", 2, source)
        _, text_length, text_width = _shape(weights, "text/position_embedding", 3, source)
        text_head = "text/head/kernel" in weights
        embed_dim = _shape(weights, "text/head/kernel", 2, source)[1] if text_head else text_width
        if embed_dim != dimensions.get("image_width", embed_dim):
            raise CheckpointError(
                f"{source} embeds texts in {embed_dim} and images in {dimensions['image_width']} dimensions; expected "
                "the same number. This project's image tower has no projection."
            )
        dimensions |= {
            "text_length": text_length,
            "vocab_size": vocab_size,
            **_tower(weights, "text", text_width, source),
            "token_bottleneck": token_width if "text/token_embedding/projection" in weights else None,
            "text_head": text_head,
            "embed_dim": embed_dim,
            "has_bias": "bias" in weights,
        }
    return dimensions


def of(checkpoint: Checkpoint) -> dict[str, Any]:
    """Returns the dimensions of a checkpoint at the resolution of its architecture."""
    a = checkpoint.architecture
    return infer(checkpoint.weights, a.get("image_size"), checkpoint.source or "The checkpoint", a.get("max_patches"))


def arguments(dimensions: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments of `siglip_tf.SigLIP` for a model of these dimensions.

    A tower of a public size is given by its name ("So400m/14"), another tower by its dimensions. If there is only an
    image tower, the arguments of the text tower are absent.
    """
    d = dimensions
    found: dict[str, Any] = {"image": None}
    if "image_width" in d:
        name, more = _named(d, "image")
        found = {
            "image": f"{name}/{d['patch_size']}",
            "image_size": d["image_size"],
            "image_pool": d["image_pool"],
            **more,
        }
        if "max_patches" in d:
            found["max_patches"] = d["max_patches"]
    if "text_width" in d:
        name, more = _named(d, "text")
        found |= {"text": name, "text_length": d["text_length"], "vocab_size": d["vocab_size"], **more}
        found |= {"text_head": d["text_head"], "token_bottleneck": d["token_bottleneck"]}
        if found["image"] is None:
            found["embed_dim"] = d["embed_dim"]
        if not d["has_bias"]:
            found["init_bias"] = None
    return found


def expected_shapes(dimensions: Mapping[str, Any]) -> dict[str, Shape]:
    """Returns the shape of every weight of a model of these dimensions by canonical name, in the model's order."""
    d = dimensions
    shapes: dict[str, Shape] = {}
    if "image_width" in d:
        width, mlp, heads, patch = d["image_width"], d["image_mlp_dim"], d["image_heads"], d["patch_size"]
        shapes |= {
            "image/patch_embedding/kernel": (3 * patch**2, width) if d.get("max_patches") else (patch, patch, 3, width),
            "image/patch_embedding/bias": (width,),
            "image/position_embedding": (1, math.prod(grid(d["image_size"], patch)), width),
        }
        if d["image_pool"] == "tok":
            shapes["image/class_token"] = (1, 1, width)
        shapes |= _encoder("image", d["image_depth"], width, mlp, heads)
        if d["image_pool"] == "map":
            shapes["image/head/probe"] = (1, 1, width)
            shapes |= _attention("image/head/attention", width, heads)
            shapes |= _norm("image/head/mlp_norm", width) | _mlp("image/head/mlp", width, mlp)
    if "text_width" in d:
        width, k = d["text_width"], d["token_bottleneck"]
        shapes["text/token_embedding/embedding"] = (d["vocab_size"], k or width)
        if k:
            shapes["text/token_embedding/projection"] = (k, width)
        shapes["text/position_embedding"] = (1, d["text_length"], width)
        shapes |= _encoder("text", d["text_depth"], width, d["text_mlp_dim"], d["text_heads"])
        if d["text_head"]:
            shapes |= {"text/head/kernel": (width, d["embed_dim"]), "text/head/bias": (d["embed_dim"],)}
        shapes["log_temperature"] = ()
        if d["has_bias"]:
            shapes["bias"] = ()
    return shapes


def compare(weights: Mapping[str, Any], shapes: Mapping[str, Shape]) -> KeyReport:
    """Returns how the keys and shapes of `weights` differ from `shapes`."""
    found = {name: tuple(array.shape) for name, array in weights.items()}
    return KeyReport(
        missing=tuple(n for n in shapes if n not in found),
        unexpected=tuple(n for n in found if n not in shapes),
        misshapen={n: (found[n], s) for n, s in shapes.items() if n in found and found[n] != tuple(s)},
    )


def whole(weights: Mapping[str, ArrayT], dimensions: Mapping[str, Any], source: str) -> dict[str, ArrayT]:
    """Returns `weights` in the model's order.

    Raises:
        CheckpointError: if the weights are not exactly those of a model of these dimensions. The message lists the
            keys that differ.
    """
    shapes = expected_shapes(dimensions)
    compare(weights, shapes).require_empty(source)
    return {name: weights[name] for name in shapes}


def sides(image_size: ImageSize) -> tuple[int, int]:
    """Returns (height, width) of a resolution that is given as one side or as both."""
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    return height, width


def grid(image_size: ImageSize, patch: int) -> tuple[int, int]:
    """Returns the rows and columns of whole patches in an image. Pixels beyond the last whole patch are ignored."""
    height, width = sides(image_size)
    return height // patch, width // patch


def grid_side(positions: int, source: str = "The checkpoint") -> int:
    """Returns the side of the square grid of patches.

    Raises:
        CheckpointError: if `positions` is not a square number.
    """
    side = math.isqrt(positions)
    if side * side != positions:
        raise CheckpointError(f"{source} has {positions} image positions, which is no square grid of patches.")
    return side


def likely_image_size(positions: int, patch: int, source: str = "The checkpoint") -> int:
    """Returns the resolution in pixels for this many positions: a public one if there is one, else the smallest."""
    least = grid_side(positions, source) * patch
    return next((size for size in PUBLIC_IMAGE_SIZES if size in range(least, least + patch)), least)


def _image_size(positions: int, patch: int, image_size: ImageSize | None, source: str) -> ImageSize:
    if image_size is None:
        return likely_image_size(positions, patch, source)
    if math.prod(grid(image_size, patch)) != positions:
        rows, columns = grid(image_size, patch)
        raise CheckpointError(
            f"{source} has {positions} image positions; its resolution {image_size} makes {rows} x {columns} patches "
            f"of {patch} pixels."
        )
    height, width = sides(image_size)
    return height if height == width else (height, width)


def _named(dimensions: Mapping[str, Any], tower: str) -> tuple[str, dict[str, Any]]:
    """Returns the name of a public size, or "B" and the arguments that replace its parts."""
    size = tuple(dimensions[f"{tower}_{key}"] for key in _SIZE_KEYS)
    for name, public in PUBLIC_TOWERS.items():
        if size == public:
            return name, {}
    return "B", {f"{tower}_{key}": value for key, value in zip(_SIZE_KEYS, size, strict=True)}


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


def _patch(weights: Mapping[str, Any], source: str) -> tuple[int, int, bool]:
    """Returns the side of a patch, the width, and whether this is a NaFlex tower."""
    name = "image/patch_embedding/kernel"
    if name not in weights or len(weights[name].shape) != 2:
        side, other, channels, width = _shape(weights, name, 4, source)
        if (other, channels) != (side, 3):
            raise CheckpointError(f"{source} has {name} of shape {weights[name].shape}; expected (P, P, 3, width).")
        return side, width, False
    values, width = _shape(weights, name, 2, source)
    side = math.isqrt(values // 3)
    if 3 * side**2 != values or not side:
        raise CheckpointError(f"{source} has {name} of shape {(values, width)}; expected (P * P * 3, width).")
    return side, width, True


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
