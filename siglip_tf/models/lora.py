"""Low-rank adapters: adding them, saving them separately, and merging them into the weights.

Source: "LoRA: Low-Rank Adaptation of Large Language Models", https://arxiv.org/abs/2106.09685
"""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from siglip_tf.checkpoints.files import read_safetensors, write_safetensors
from siglip_tf.primitives.projection import Projection, check_rank
from siglip_tf.primitives.tensorflow_internals import all_layers

# The end of a layer's path for each name of a projection.
PROJECTIONS = {
    "q": "attention/query",
    "k": "attention/key",
    "v": "attention/value",
    "out": "attention/out",
    "fc1": "mlp/fc1",
    "fc2": "mlp/fc2",
}
_FORMAT = "siglip_tf adapters 1"

Rank = int | Mapping[str, int | Mapping[str, int]]


def enable_lora(
    model: keras.Model,
    rank: Rank,
    projections: Iterable[str] = tuple(PROJECTIONS),
    alpha: float | None = None,
    train_temperature: bool = True,
) -> list[str]:
    """See `SigLIP.enable_lora`."""
    projections = list(projections)
    chosen = _ranks(model, rank, projections)
    layers = {layer.path: layer for layer in all_layers(model) if isinstance(layer, Projection)}
    targets = {
        path: ranks[end]
        for path in layers
        for tower, ranks in chosen.items()
        for end in ranks
        if path.startswith(f"{tower}/") and path.endswith(f"/{PROJECTIONS[end]}")
    }
    for path, value in targets.items():  # check all of them before changing the first one
        layers[path].check_lora(value, alpha)
    for variable in model.named_weights().values():
        variable.trainable = False
    with model.distribute_strategy.scope():
        for path, value in targets.items():
            layers[path].enable_lora(value, alpha)
    for scalar in (model.log_temperature, model.bias):
        if scalar is not None:
            scalar.trainable = train_temperature
    return list(targets)


def _ranks(model, rank, projections):
    """Returns the ranks by tower and projection, after checking the names."""
    towers = {tower.name: tower for tower in (model.image, model.text) if tower is not None}
    by_tower = dict(rank) if isinstance(rank, Mapping) else dict.fromkeys(towers, rank)
    unknown = [name for name in by_tower if name not in towers]
    if unknown or not by_tower:
        raise ValueError(f"Expected ranks for towers among {', '.join(towers)}. Received: {list(by_tower)}.")
    found = {}
    for tower, value in by_tower.items():
        ranks = dict(value) if isinstance(value, Mapping) else dict.fromkeys(projections, value)
        wrong = [name for name in ranks if name not in PROJECTIONS]
        if wrong or not ranks:
            raise ValueError(f"Expected projections among {', '.join(PROJECTIONS)}. Received: {wrong or list(ranks)}.")
        for value in ranks.values():
            check_rank(value, tower_width(towers[tower]), f"the {tower} tower")
        found[tower] = ranks
    return found


def tower_width(tower: keras.layers.Layer) -> int:
    """Returns the smallest dimension of a tower's projections, which is the largest rank."""
    return min(tower.size.width, tower.size.mlp_dim)


def adapters_of(model: keras.Model) -> dict[str, keras.layers.Layer]:
    """Returns every layer that has an adapter, by its path."""
    return {layer.path: layer for layer in all_layers(model) if getattr(layer, "lora_enabled", False)}


def merged_weights(model: keras.Model) -> dict[str, np.ndarray]:
    """Returns float32 weights by canonical name, with the adapters merged into their kernels."""
    weights = {name: np.asarray(variable.numpy(), np.float32) for name, variable in model.named_weights().items()}
    for path, layer in adapters_of(model).items():
        own = isinstance(layer, Projection)
        weights[f"{path}/kernel"] = np.asarray(layer.effective_kernel("float32") if own else layer.kernel, np.float32)
    return weights


def merge_lora(model: keras.Model) -> keras.Model:
    """Returns a new model without adapters that gives the same embeddings, or the model itself if it has none."""
    if not adapters_of(model):
        return model
    config = model.get_config()
    config.pop("trainability", None)
    merged = type(model).from_config(config)
    merged.assign_weights(merged_weights(model))
    merged.preprocessing = model.preprocessing
    return merged


def save_adapters(model: keras.Model, path: str | os.PathLike) -> None:
    """Writes the adapters and all other trainable weights, such as the temperature, to one safetensors file.

    Together with the starting checkpoint, the file holds the whole tuned model, because other weights did not change.

    Raises:
        ValueError: if the model has no adapters.
    """
    adapters = adapters_of(model)
    if not adapters:
        raise ValueError("Expected a model with adapters: call model.enable_lora(rank=...) first.")
    arrays = {name: v.numpy() for name, v in model.named_weights().items() if v.trainable}
    for layer_path, layer in adapters.items():
        arrays[f"{layer_path}/lora_a"] = layer.lora_kernel_a.numpy()
        arrays[f"{layer_path}/lora_b"] = layer.lora_kernel_b.numpy()
    alphas = {layer_path: layer.lora_alpha for layer_path, layer in adapters.items()}
    write_safetensors(Path(path), arrays, {"format": _FORMAT, "alphas": json.dumps(alphas)})


def load_adapters(model: keras.Model, path: str | os.PathLike) -> None:
    """Adds or sets the adapters from a file that `save_adapters` wrote, and freezes all weights that are not in it.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if the file has another format or is of another model. Then the model does not change.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There are no adapters at {path}.")
    arrays = read_safetensors(path)
    alphas = _alphas(path)
    layers = {layer.path: layer for layer in all_layers(model) if hasattr(layer, "enable_lora")}
    own = model.named_weights()
    wrong = [name for name in alphas if name not in layers]
    wrong += [name for name in arrays if name.rpartition("/")[0] not in alphas and name not in own]
    wrong += [name for name in arrays if name in own and arrays[name].shape != tuple(own[name].shape)]
    present = adapters_of(model)
    for name, layer in layers.items():
        if name in alphas:
            a, b = arrays[f"{name}/lora_a"], arrays[f"{name}/lora_b"]
            if isinstance(layer, Projection) and (a.shape[0], b.shape[-1]) != layer.flat:
                wrong.append(name)
            if name in present and present[name].lora_rank != a.shape[-1]:
                wrong.append(f"{name}: rank {a.shape[-1]} where the model has {present[name].lora_rank}")
    if wrong:
        raise ValueError(f"Expected adapters of this model in {path}. Received: {', '.join(wrong[:10])}.")
    for variable in own.values():
        variable.trainable = False
    with model.distribute_strategy.scope():
        for name, alpha in alphas.items():
            if name not in present:
                layers[name].enable_lora(int(arrays[f"{name}/lora_a"].shape[-1]), lora_alpha=alpha)
            layers[name].lora_alpha = alpha
            layers[name].lora_kernel_a.assign(arrays[f"{name}/lora_a"])
            layers[name].lora_kernel_b.assign(arrays[f"{name}/lora_b"])
    for name, array in arrays.items():
        if name in own:
            own[name].assign(array)
            own[name].trainable = True


def _alphas(path: Path) -> dict[str, float]:
    from safetensors import safe_open

    with safe_open(str(path), framework="np") as file:
        metadata: dict[str, Any] = file.metadata() or {}
    if metadata.get("format") != _FORMAT:
        raise ValueError(
            f"Expected a file that save_adapters wrote. Received: {path}, of the format {metadata.get('format')!r}."
        )
    return json.loads(metadata["alphas"])
