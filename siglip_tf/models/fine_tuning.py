"""Fine-tuning: which parts of a model are trained, and learning rates that decrease toward the first blocks."""

from collections.abc import Iterable

import keras

from siglip_tf.optimizers import ParameterGroup

Part = str | int  # "all", "frozen", "head", or the number of last blocks

_PARTS = '"all", "frozen", "head", or a number of last blocks'


def train_only(model: keras.Model, image: Part = "all", text: Part = "all", temperature: bool = True) -> list[str]:
    """See `SigLIP.train_only`."""
    chosen = {}
    for tower, part in ((model.image, image), (model.text, text)):
        name = "image" if tower is model.image else "text"
        if tower is None and part not in ("all", "frozen"):
            raise ValueError(f"Expected a model with an image tower. Received: {name}={part!r}.")
        if tower is not None:
            chosen[name] = _trained_prefixes(tower, name, part)
    names = {
        name: any(name.startswith(prefix) for prefix in chosen.get(name.partition("/")[0], ()))
        if "/" in name
        else temperature
        for name in model.named_weights()
    }
    if not any(names.values()):
        raise ValueError(f"Expected something to train. Received: {image=}, {text=}, {temperature=}.")
    for tower in (model.image, model.text):
        if tower is not None:
            tower.trainable = any(names[name] for name in names if name.startswith(f"{tower.name}/"))
    for name, variable in model.named_weights().items():
        variable.trainable = names[name]
    return [name for name, trained in names.items() if trained]


def _trained_prefixes(tower, name, part):
    depth = tower.size.depth
    if part == "all":
        return [f"{name}/"]
    if part == "frozen":
        return []
    if part == "head":
        if not hasattr(tower, "head"):
            raise ValueError(f'Expected a tower with a head. Received: {name}="head" for a {name} tower without one.')
        return [f"{name}/head/"]
    if isinstance(part, int) and not isinstance(part, bool) and 1 <= part <= depth:
        blocks = [f"{name}/block_{i}/" for i in range(depth - part, depth)]
        return [*blocks, f"{name}/final_norm/", f"{name}/head/"]
    raise ValueError(f"Expected {name} to be {_PARTS} from 1 to {depth}. Received: {name}={part!r}.")


def layerwise_decay(
    model: keras.Model, factor: float, towers: Iterable[str] = ("image", "text")
) -> tuple[ParameterGroup, ...]:
    """Returns parameter groups with which each block's learning rate is `factor` times that of the block above it.

    The heads, the final norms, the temperature, and the bias have the full learning rate. The embeddings count as below
    the first block. Pass the groups as the optimizer's `groups`.

    Args:
        model: the model.
        factor: the factor per block, in (0, 1]. Usual values are 0.65 to 0.9.
        towers: the towers to which this applies.

    Returns:
        Parameter groups, the most specific first. Groups of frozen weights are left out.

    Raises:
        ValueError: if the factor is out of range, or the model does not have the tower.

    Source: "BEiT", https://arxiv.org/abs/2106.08254, section 2.6 and appendix; as in MAE and AugReg fine-tuning.
    """
    if not 0 < factor <= 1:
        raise ValueError(f"Expected a factor in (0, 1]. Received: {factor!r}.")
    there = {tower.name: tower for tower in (model.image, model.text) if tower is not None}
    groups = []
    for name in towers:
        if name not in there:
            raise ValueError(f"Expected towers among {', '.join(there)}. Received: {name!r}.")
        depth = there[name].size.depth
        parts = [(rf"(^|/){name}/block_{i}/", factor ** (depth - i)) for i in range(depth)]
        parts.append((rf"(^|/){name}/(patch|position|token)_embedding|(^|/){name}/class_token", factor ** (depth + 1)))
        groups += [ParameterGroup(pattern, learning_rate_multiplier=rate) for pattern, rate in parts]
    paths = [variable.path for variable in model.trainable_variables]
    return tuple(group for group in groups if any(group.matches(path) for path in paths))
