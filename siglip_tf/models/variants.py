"""Tower sizes by their names in the paper and in the field; image and text towers use one table."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class TowerSize:
    """Size of a transformer tower: width, number of blocks, hidden units of the MLP, attention heads."""

    width: int
    depth: int
    mlp_dim: int
    num_heads: int


VARIANTS: dict[str, TowerSize] = {
    "mu": TowerSize(32, 1, 128, 2),
    "Ti": TowerSize(192, 12, 768, 3),
    "S": TowerSize(384, 12, 1536, 6),
    "M": TowerSize(512, 12, 2048, 8),
    "B": TowerSize(768, 12, 3072, 12),
    "L": TowerSize(1024, 24, 4096, 16),
    "L*": TowerSize(1024, 12, 4096, 16),  # Table 1: "a variant of the L model with 12 layers"
    "So400m": TowerSize(1152, 27, 4304, 16),
    "H": TowerSize(1280, 32, 5120, 16),
    "g": TowerSize(1408, 40, 6144, 16),
    "g-opt": TowerSize(1536, 40, 6144, 16),
    "G": TowerSize(1664, 48, 8192, 16),
    "G-opt": TowerSize(1536, 48, 8192, 16),
    "e": TowerSize(1792, 56, 15360, 16),
}


def tower_size(name: str, **overrides: int | None) -> TowerSize:
    """The size called `name`, with any of its fields replaced by what is not None.

    Raises:
        ValueError: for a name that is not in `VARIANTS` or a field that is not a positive integer.
    """
    if name not in VARIANTS:
        raise ValueError(f"Expected a tower size among {', '.join(VARIANTS)}. Received: {name!r}.")
    size = dataclasses.replace(VARIANTS[name], **{k: v for k, v in overrides.items() if v is not None})
    for field, value in dataclasses.asdict(size).items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"Expected {field} of the tower to be a positive integer. Received: {value!r}.")
    if size.width % size.num_heads:
        raise ValueError(f"Expected heads that divide the width {size.width}. Received: num_heads={size.num_heads}.")
    return size


def image_tower_size(name: str, patch_size: int | None = None, **overrides: int | None) -> tuple[TowerSize, int]:
    """Size and patch size of an image tower, from a name such as "B/16" or from a size and `patch_size`.

    Raises:
        ValueError: for an unknown size, no patch size, or two of them that differ.
    """
    size, slash, patch = name.partition("/")
    if slash and not patch.isdecimal():
        raise ValueError(f"Expected an image tower such as 'B/16'. Received: {name!r}.")
    named = int(patch) if slash else None
    if named is None and patch_size is None:
        raise ValueError(f"Expected a patch size, as in 'B/16' or patch_size=16. Received: image={name!r}.")
    if named is not None and patch_size is not None and named != patch_size:
        raise ValueError(f"Expected one patch size. Received: image={name!r} and patch_size={patch_size}.")
    return tower_size(size, **overrides), patch_size if named is None else named
