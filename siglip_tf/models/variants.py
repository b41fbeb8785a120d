"""Tower sizes by their usual names. Image and text towers use the same table."""

import dataclasses

from siglip_tf.checkpoints.architecture import PUBLIC_TOWERS


@dataclasses.dataclass(frozen=True)
class TowerSize:
    """The size of a transformer tower: width, number of blocks, hidden units of the MLP, and attention heads."""

    width: int
    depth: int
    mlp_dim: int
    num_heads: int


# The table is in `checkpoints`, which identifies the size of towers by it.
VARIANTS: dict[str, TowerSize] = {name: TowerSize(*size) for name, size in PUBLIC_TOWERS.items()}


def tower_size(name: str, **overrides: int | None) -> TowerSize:
    """Returns the size called `name`, with some fields replaced by overrides that are not None.

    Raises:
        ValueError: if the name is not in `VARIANTS`, a field is not a positive integer, or the number of heads does not
            divide the width.
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
    """Returns the size and the patch size of an image tower, from a name such as "B/16" or a size and `patch_size`.

    Raises:
        ValueError: if the size is unknown, there is no patch size, or there are two different ones.
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
