"""Stores which weights are trainable as JSON values in a saved model, because Keras' own files do not store it."""

from collections.abc import Mapping
from typing import Any

import keras

from siglip_tf.models.lora import adapters_of
from siglip_tf.primitives.tensorflow_internals import all_layers


def trainability(model: keras.Model) -> dict[str, Any]:
    """Returns the frozen layers, frozen weights, and adapters of a model, or {} if everything is trainable."""
    state = {
        "adapters": {path: [layer.lora_rank, layer.lora_alpha] for path, layer in adapters_of(model).items()},
        "frozen_layers": [path for path, layer in _layers(model).items() if not layer.trainable],
        "frozen_weights": [name for name, variable in model.named_weights().items() if not variable.trainable],
        "frozen_adapters": [path for path, layer in adapters_of(model).items() if not layer.lora_kernel_a.trainable],
    }
    return {name: value for name, value in state.items() if value}


def restore_trainability(model: keras.Model, state: Mapping[str, Any]) -> None:
    """Applies the result of `trainability` to a new model.

    Raises:
        ValueError: if the model does not have a layer or weight.
    """
    layers, weights = _layers(model), model.named_weights()
    named = [*state.get("adapters", ()), *state.get("frozen_layers", ())]
    unknown = [name for name in named if name not in layers]
    unknown += [name for name in state.get("frozen_weights", ()) if name not in weights]
    if unknown:
        raise ValueError(f"Expected layers and weights of this model. Received: {', '.join(unknown[:5])}.")
    for path, (rank, alpha) in state.get("adapters", {}).items():
        layers[path].enable_lora(rank, lora_alpha=alpha)
    frozen = set(state.get("frozen_layers", ()))
    for path, layer in layers.items():  # a layer comes before its sublayers, because it also sets their `trainable`
        if layer.trainable == (path in frozen):
            layer.trainable = path not in frozen
    frozen = set(state.get("frozen_weights", ()))
    for name, variable in weights.items():
        variable.trainable = name not in frozen
    frozen = set(state.get("frozen_adapters", ()))
    for path, layer in adapters_of(model).items():
        layer.lora_kernel_a.trainable = layer.lora_kernel_b.trainable = path not in frozen


def _layers(model):
    """Returns the model under the key "", and every layer of its towers by path."""
    return {"": model} | {layer.path: layer for layer in all_layers(model)}
