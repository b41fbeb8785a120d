"""`export_onnx`: each tower as an ONNX file, for onnxruntime on servers, desktops, and in browsers.

ONNX has no operators for image decoding and SentencePiece. A client resizes images and tokenizes texts itself: the
README beside the files says exactly how, and `tokenizer.model` is the checkpoint's own.
"""

import json
import logging
import os
from dataclasses import dataclass
from importlib import resources
from typing import Any

import keras
import numpy as np

from siglip_tf.data.preprocessing import Preprocessing
from siglip_tf.export.client import SETTINGS_FILE, TOKENIZER_FILE, client_settings
from siglip_tf.export.client_readme import onnx_readme
from siglip_tf.export.towers import TOWERS, checked_preprocessing, pure_tower
from siglip_tf.export.weights import cast_to_float16, contracted_axes, is_matrix, quantize
from siglip_tf.storage import write_file

OPSET = 17
PRECISIONS = ("float32", "float16", "int8_weights")
_PAGE = ("index.html", "siglip.mjs")

_MOST_BYTES = 2**31 - 2**20  # a protobuf message holds 2 GiB, the graph included
_BYTES = {"float32": 4, "float16": 2, "int8_weights": 1}


@dataclass(frozen=True)
class ONNXExport:
    """What was written: the folder, the precision, and the bytes of both model files."""

    path: str
    precision: str
    model_bytes: int


def export_onnx(
    model: keras.Model,
    directory: str | os.PathLike,
    *,
    preprocessing: Preprocessing | None = None,
    precision: str = "float32",
) -> ONNXExport:
    """Writes `encode_image.onnx`, `encode_text.onnx`, and what a client needs beside them.

    That is `tokenizer.model`, `preprocessing.json`, `README.md`, and a page for browsers: `index.html`, `siglip.mjs`.
    Inputs and outputs are those of `siglip_tf.export.towers.Towers`, for any batch size. NaFlex models take patches and
    grids.

    Args:
        model: a `SigLIP` with an image tower.
        directory: the folder to write, local or any that TensorFlow writes.
        preprocessing: by default the model's own.
        precision: "float32"; "float16" and "int8_weights" store matrices in half precision, or in 8 bits with a scale
            for each output channel. They are widened when a session is made, and arithmetic is float32 throughout.

    Raises:
        ValueError: no image tower or preprocessing, a tower of 2 GiB and more, or an unknown precision.
        ModuleNotFoundError: tf2onnx is not installed.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"Expected precision to be one of {', '.join(PRECISIONS)}. Received: {precision!r}.")
    preprocessing = checked_preprocessing(model, preprocessing)
    model = model.merge_lora()  # the files have no adapters
    for side in TOWERS.values():
        _check_size(model, side, precision)
    require_tf2onnx()
    contents = {name: _converted(model, name, precision) for name in TOWERS}
    model_bytes = sum(len(content) for content in contents.values())

    directory = os.fspath(directory).rstrip("/")
    write_file(f"{directory}/{TOKENIZER_FILE}", preprocessing.text.model_proto)
    write_file(f"{directory}/{SETTINGS_FILE}", json.dumps(client_settings(model, preprocessing), indent=1))
    write_file(f"{directory}/README.md", onnx_readme(model, preprocessing, precision, model_bytes, OPSET))
    for name in _PAGE:
        write_file(f"{directory}/{name}", resources.files("siglip_tf.export").joinpath("browser", name).read_bytes())
    for name, content in contents.items():
        write_file(f"{directory}/{name}.onnx", content)
    return ONNXExport(directory, precision, model_bytes)


def require_tf2onnx() -> None:
    """Raises a ModuleNotFoundError that says what to install where tf2onnx is missing."""
    try:
        import tf2onnx  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "ONNX files are written by tf2onnx, which is not installed: pip install 'siglip-tf[onnx]'."
        ) from error


def _check_size(model: keras.Model, side: str, precision: str) -> None:
    weights = [w for name, w in model.named_weights().items() if name.startswith(f"{side}/")]
    size = _BYTES[precision] * sum(int(np.prod(weight.shape)) for weight in weights)
    if size > _MOST_BYTES:
        raise ValueError(
            f"Expected towers of less than 2 GiB, the most that an ONNX file holds. Received: the {side} tower, "
            f"{size / 2**30:.2f} GiB in {precision}. Export it in fewer bits, or as saved_model."
        )


def _converted(model: keras.Model, name: str, precision: str) -> bytes:
    """The ONNX file of a tower. The converter sees the graph alone; the weights are put into it afterwards."""
    import tf2onnx

    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    function, weights = pure_tower(model, name)
    signature = function.input_signature
    proto, _ = tf2onnx.convert.from_function(function, input_signature=signature, opset=OPSET)
    graph = proto.graph
    inputs = [value for value in graph.input if not value.name.startswith("weight_")]
    placed = {f"weight_{i}": key for i, key in enumerate(weights)}
    read = _names_read(graph)  # a key's bias changes no softmax, for one
    used = {place: key for place, key in placed.items() if place in read}
    del graph.input[:]
    graph.input.extend(inputs)
    widening = []
    for place, key in used.items():
        tensors, nodes = _stored(place, key, weights[key], precision)
        graph.initializer.extend(tensors)
        widening += nodes
    nodes = [*widening, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return proto.SerializeToString()


def _names_read(graph: Any) -> set[str]:
    """Names that nodes of a graph and of the graphs inside them read."""
    names = {name for node in graph.node for name in node.input}
    inner = [attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g")]
    return names.union(*map(_names_read, inner))


def _stored(place: str, key: str, value: np.ndarray, precision: str) -> tuple[list[Any], list[Any]]:
    """Tensors that hold a weight, and nodes that make float32 of them, called `place`."""
    from onnx import TensorProto, helper, numpy_helper

    if precision == "float32" or not is_matrix(key, value):
        return [numpy_helper.from_array(value, place)], []
    if precision == "float16":
        stored = numpy_helper.from_array(cast_to_float16(value, key), key)
        return [stored], [helper.make_node("Cast", [key], [place], to=TensorProto.FLOAT)]
    quantized, scale = quantize(value, contracted_axes(key, value.ndim))
    wide, scales = f"{key}/wide", f"{key}/scale"
    nodes = [
        helper.make_node("Cast", [key], [wide], to=TensorProto.FLOAT),
        helper.make_node("Mul", [wide, scales], [place]),
    ]
    return [numpy_helper.from_array(quantized, key), numpy_helper.from_array(scale, scales)], nodes
