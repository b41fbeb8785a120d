"""Parameter groups that define which parts of a model are trained: whole towers, their last blocks, or their heads."""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

from siglip_tf.optimizers import ParameterGroup

IMAGE_TOWER = r"(^|/)image/"
TEXT_TOWER = r"(^|/)text/"
# Temperature and bias.
SCALARS = r"(log_temperature|^[^/]*/?bias)$"
_TOWERS = {"image": IMAGE_TOWER, "text": TEXT_TOWER}


def parameter_groups(c: ConfigDict, depths: dict[str, int]) -> list[ParameterGroup]:
    """Returns the groups that the settings describe. The first group that matches a variable applies to it.

    Args:
        c: the settings. This function reads `tune` and the factors of `optimizer`.
        depths: the number of blocks by tower, "image" and "text". A tower that the model does not have is left out.
    """
    groups = []
    for tower, depth in depths.items():
        groups += _tower_groups(c, tower, depth)
    if not c.tune.scalars:
        groups.append(ParameterGroup(SCALARS, freeze=True))
    elif c.optimizer.scalars_learning_rate != 1.0:
        groups.append(ParameterGroup(SCALARS, c.optimizer.scalars_learning_rate))
    return groups


def _tower_groups(c: ConfigDict, tower: str, depth: int) -> list[ParameterGroup]:
    how = c.tune[tower]
    everything = _TOWERS[tower]
    if how == "frozen" or (tower == "image" and c.optimizer.freeze_image):
        return [ParameterGroup(everything, freeze=True)]
    rate, decay = c.optimizer[f"{tower}_learning_rate"], c.optimizer[f"{tower}_decay"]
    layer_decay = c.optimizer.layer_decay
    first = {"whole": 0, "last": max(0, depth - c.tune.last_blocks), "head": depth}.get(how, 0)
    groups = []
    if first or how == "head":
        frozen = "|".join(map(str, range(first)))
        groups.append(ParameterGroup(rf"{everything}(.*/)?block_({frozen})/", freeze=True))
        groups.append(ParameterGroup(rf"{everything}(patch_embedding|token_embedding|position_embedding)", freeze=True))
    if layer_decay < 1.0:
        for block in range(first, depth):
            factor = layer_decay ** (depth - block)
            groups.append(ParameterGroup(rf"{everything}(.*/)?block_{block}/", rate * factor, decay))
        if not first and how != "lora":  # embeddings have no adapters
            factor = layer_decay ** (depth + 1)
            groups.append(ParameterGroup(rf"{everything}[a-z_]*embedding", rate * factor, decay))
    if (rate, decay) != (1.0, 1.0):
        groups.append(ParameterGroup(everything, rate, decay))
    return groups


def add_adapters(model: Any, c: ConfigDict) -> None:
    """Adds adapters to the towers that are tuned by LoRA. The parameter groups decide what else is trained."""
    chosen = c.tune.lora_projections.split(",")
    towers = {"image": model.image, "text": model.text}
    adapted = [name for name, tower in towers.items() if tower is not None and c.tune[name] == "lora"]
    if not adapted:
        return
    ranks = {name: dict.fromkeys((p.strip() for p in chosen), c.tune.lora_rank) for name in adapted}
    model.enable_lora(ranks)
    for name, variable in model.named_weights().items():
        variable.trainable = name.partition("/")[0] not in adapted


def describe(model: Any) -> str:
    """Returns a text that says how many parameters of each tower are trained."""
    parts = []
    for name in ("image", "text"):
        tower = getattr(model, name)
        if tower is not None:
            trained = sum(int(v.shape.num_elements()) for v in (w.value for w in tower.trainable_weights))
            parts.append(f"{name} tower {trained:,} of {tower.count_params():,}")
    return ", ".join(parts)
