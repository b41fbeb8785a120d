"""Both towers as functions of tensors that a converter takes: with their weights, and free of Keras.

The weights are variables of a `tf.Module`. If a converter is given a Keras 3 model to track, it loses the model's
variables without a word, and what it writes answers with whatever lies in memory, often NaN.
"""

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from siglip_tf.data.preprocessing import Preprocessing
from siglip_tf.export.weights import StoredWeights

TOWERS = {"encode_image": "image", "encode_text": "text"}


@dataclass(frozen=True)
class TowersExport:
    """What was written: the folder, the precision, and the bytes of the model's files."""

    path: str
    precision: str
    model_bytes: int


@dataclass(frozen=True)
class Towers:
    """`module` holds the weights; `functions` are `encode_image` and `encode_text`, of any batch size.

    `encode_image` takes `images` float32 (batch, height, width, 3) in [-1, 1]. A NaFlex model takes `patches` float32
    (batch, max_patches, 3 * patch_size**2) and `grid` int32 (batch, 2) instead, as `NaFlexPreprocessing` makes them.
    `encode_text` takes `token_ids` int32 (batch, length). Both return `embedding` float32 (batch, dim), l2-normalized.
    """

    module: tf.Module
    functions: dict[str, tf.types.experimental.PolymorphicFunction]


def tower_functions(model: keras.Model) -> Towers:
    """The towers of a `SigLIP` that has no adapters (`merge_lora`).

    Raises:
        ValueError: a model that does not compute in float32.
    """
    _check_float32(model)
    module = tf.Module(name="siglip")
    module.weights = weights = StoredWeights(model)

    def function(side: str) -> tf.types.experimental.PolymorphicFunction:
        @tf.function(input_signature=_inputs(model, side), autograph=False)
        def encode(*inputs):
            with weights.scope(model, f"{side}/"):
                return {"embedding": _encode(model, side, inputs)}

        return encode

    return Towers(module, {name: function(side) for name, side in TOWERS.items()})


def pure_tower(
    model: keras.Model, name: str
) -> tuple[tf.types.experimental.PolymorphicFunction, dict[str, np.ndarray]]:
    """A tower as a function of its inputs and then of its weights, and those weights by their names.

    For converters that take no variables, or no graph of 2 GiB.

    Args:
        model: a `SigLIP` that has no adapters.
        name: "encode_image" or "encode_text"; see `Towers` for its inputs.

    Raises:
        ValueError: a model that does not compute in float32.
    """
    _check_float32(model)
    side = TOWERS[name]
    variables = {key: v for key, v in model.named_weights().items() if key.startswith(f"{side}/")}
    inputs = _inputs(model, side)
    weights = [tf.TensorSpec(v.shape, tf.float32, name=f"weight_{i}") for i, v in enumerate(variables.values())]

    @tf.function(input_signature=[*inputs, *weights], autograph=False)
    def encode(*values):
        with keras.StatelessScope(list(zip(variables.values(), values[len(inputs) :], strict=True))):
            return {"embedding": _encode(model, side, values[: len(inputs)])}

    return encode, {key: np.asarray(v) for key, v in variables.items()}


def _inputs(model: keras.Model, side: str) -> list[tf.TensorSpec]:
    if side == "text":
        return [tf.TensorSpec([None, model.text_length], tf.int32, name="token_ids")]
    if model.max_patches is None:
        return [tf.TensorSpec([None, *model.image_size, 3], tf.float32, name="images")]
    shape = [None, model.max_patches, 3 * model.image.patch_size**2]
    return [tf.TensorSpec(shape, tf.float32, name="patches"), tf.TensorSpec([None, 2], tf.int32, name="grid")]


def _encode(model: keras.Model, side: str, inputs: tuple[tf.Tensor, ...]) -> tf.Tensor:
    if side == "text":
        return model.encode_text(*inputs)
    if model.max_patches is None:
        return model.encode_image(*inputs)
    return model.encode_image(dict(zip(("patches", "grid"), inputs, strict=True)))


def _check_float32(model: keras.Model) -> None:
    if model.compute_dtype != "float32":
        raise ValueError(
            f"Expected a model that computes in float32. Received: {model.compute_dtype}. Load the checkpoint again "
            "under keras.config.set_dtype_policy('float32')."
        )


def checked_preprocessing(model: keras.Model, preprocessing: Preprocessing | None) -> Preprocessing:
    """The preprocessing to export with a model: the one given or the model's own.

    Raises:
        ValueError: no image tower, no preprocessing for images or texts, or one that does not fit the model.
    """
    preprocessing = preprocessing or model.preprocessing
    if model.image is None:
        raise ValueError("This model has no image tower (image=None): there is nothing to serve images with.")
    if preprocessing is None or preprocessing.image is None or preprocessing.text is None:
        raise ValueError(
            "The model has no preprocessing for images and texts of its own. "
            "Set `model.preprocessing` or give `preprocessing=siglip_tf.data.Preprocessing(image, text)`."
        )
    image: Any = preprocessing.image
    text = preprocessing.text
    if model.max_patches is not None:
        if getattr(image, "max_patches", None) != model.max_patches:
            raise ValueError(f"The model takes {model.max_patches} patches; its preprocessing makes another number.")
    elif tuple(model.image_size) != (image.size, image.size):
        raise ValueError(f"The model takes images of {model.image_size}, its preprocessing makes {image.size} pixels.")
    if text.length != model.text_length or text.vocab_size > model.vocab_size:
        raise ValueError(
            f"The model takes {model.text_length} tokens of {model.vocab_size} ids, "
            f"its tokenizer makes {text.length} of {text.vocab_size}."
        )
    return preprocessing
