"""`export_onnx`: each tower as an ONNX file, for onnxruntime on servers, desktops, and in browsers.

ONNX has no operators for image decoding and SentencePiece. A client resizes images and tokenizes texts itself: the
README beside the files says exactly how, and `tokenizer.model` is the checkpoint's own.
"""

import importlib.util
import json
import logging
import os
from importlib import resources
from typing import Any

import keras
import numpy as np

from siglip_tf.data.preprocessing import Preprocessing
from siglip_tf.export.client import SETTINGS_FILE, TOKENIZER_FILE, client_settings
from siglip_tf.export.client_readme import onnx_readme
from siglip_tf.export.towers import TOWERS, TowersExport, checked_preprocessing, pure_tower
from siglip_tf.export.weights import cast_to_float16, contracted_axes, is_matrix, quantize
from siglip_tf.storage import write_file

OPSET = 17
PRECISIONS = ("float32", "float16", "int8_weights")
DATA = ".onnx.data"  # ending of the weights of a tower that is too large for one file

_PAGE = ("index.html", "siglip.mjs")
_MOST_BYTES = 2**31 - 2**24  # a protobuf message holds 2 GiB, the graph included


def export_onnx(
    model: keras.Model,
    directory: str | os.PathLike,
    *,
    preprocessing: Preprocessing | None = None,
    precision: str = "float32",
) -> TowersExport:
    """Writes `encode_image.onnx`, `encode_text.onnx`, and what a client needs beside them.

    That is `tokenizer.model`, `preprocessing.json`, `README.md`, and a page for browsers: `index.html`, `siglip.mjs`.
    The weights of a tower of 2 GiB and more lie in a file of their own, `NAME.onnx.data`. Inputs and outputs are those
    of `siglip_tf.export.towers.Towers`, for any batch size. NaFlex models take patches and grids.

    Args:
        model: a `SigLIP` with an image tower.
        directory: the folder to write, local or any that TensorFlow writes.
        preprocessing: by default the model's own.
        precision: "float32"; "float16" and "int8_weights" store matrices in half precision, or in 8 bits with a scale
            for each output channel. They are widened when a session is made, and arithmetic is float32 throughout.

    Raises:
        ValueError: no image tower or preprocessing, or an unknown precision.
        ModuleNotFoundError: tf2onnx is not installed.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"Expected precision to be one of {', '.join(PRECISIONS)}. Received: {precision!r}.")
    preprocessing = checked_preprocessing(model, preprocessing)
    model = model.merge_lora()  # the files have no adapters
    require_tf2onnx()
    directory = os.fspath(directory).rstrip("/")
    contents, model_bytes = {}, 0
    for name in TOWERS:
        contents[name], data = _converted(model, name, precision)
        model_bytes += len(contents[name]) + sum(value.nbytes for value in data.values())
        if data:
            write_file(f"{directory}/{name}{DATA}", (value.tobytes() for value in data.values()))
    write_file(f"{directory}/{TOKENIZER_FILE}", preprocessing.text.model_proto)
    write_file(f"{directory}/{SETTINGS_FILE}", json.dumps(client_settings(model, preprocessing), indent=1))
    write_file(f"{directory}/README.md", onnx_readme(model, preprocessing, precision, model_bytes, OPSET))
    for name in _PAGE:
        write_file(f"{directory}/{name}", resources.files("siglip_tf.export").joinpath("browser", name).read_bytes())
    for name, content in contents.items():  # last: a folder with these files is complete
        write_file(f"{directory}/{name}.onnx", content)
    return TowersExport(directory, precision, model_bytes)


def require_tf2onnx() -> None:
    """Raises a ModuleNotFoundError that says what to install where tf2onnx is missing."""
    if importlib.util.find_spec("tf2onnx") is None:
        raise ModuleNotFoundError(
            "ONNX files are written by tf2onnx, which is not installed: pip install 'siglip-tf[onnx]'."
        )


def _converted(model: keras.Model, name: str, precision: str) -> tuple[bytes, dict[str, np.ndarray]]:
    """A tower's ONNX file, and the tensors of its data file, in order: none where all fit into the first.

    The converter sees the graph alone; the weights are put into it afterwards.
    """
    import tf2onnx
    from onnx import numpy_helper

    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    function, weights = pure_tower(model, name)
    signature = function.input_signature
    proto, _ = tf2onnx.convert.from_function(function, input_signature=signature, opset=OPSET)
    graph = proto.graph
    inputs = [value for value in graph.input if not value.name.startswith("weight_")]
    placed = {f"weight_{i}": key for i, key in enumerate(weights)}
    read = _names_read(graph)  # a key's bias changes no softmax, for one
    del graph.input[:]
    graph.input.extend(inputs)
    tensors: dict[str, np.ndarray] = {}
    widening: list[Any] = []
    for place, key in placed.items():
        if place in read:
            stored, nodes = _stored(place, key, weights[key], precision)
            tensors |= stored
            widening += nodes
    nodes = [*widening, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    if sum(value.nbytes for value in tensors.values()) <= _MOST_BYTES:
        graph.initializer.extend(numpy_helper.from_array(value, key) for key, value in tensors.items())
        return proto.SerializeToString(), {}
    offset = 0
    for key, value in tensors.items():
        graph.initializer.append(_outside(key, value, f"{name}{DATA}", offset))
        offset += value.nbytes
    return proto.SerializeToString(), tensors


def _names_read(graph: Any) -> set[str]:
    """Names that nodes of a graph and of the graphs inside them read."""
    names = {name for node in graph.node for name in node.input}
    inner = [attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g")]
    return names.union(*map(_names_read, inner))


def _stored(place: str, key: str, value: np.ndarray, precision: str) -> tuple[dict[str, np.ndarray], list[Any]]:
    """Tensors that hold a weight, and nodes that make float32 of them, called `place`."""
    from onnx import TensorProto, helper

    if precision == "float32" or not is_matrix(key, value):
        return {place: value}, []
    if precision == "float16":
        return {key: cast_to_float16(value, key)}, [helper.make_node("Cast", [key], [place], to=TensorProto.FLOAT)]
    quantized, scale = quantize(value, contracted_axes(key, value.ndim))
    wide, scales = f"{key}/wide", f"{key}/scale"
    nodes = [
        helper.make_node("Cast", [key], [wide], to=TensorProto.FLOAT),
        helper.make_node("Mul", [wide, scales], [place]),
    ]
    return {key: quantized, scales: scale}, nodes


def _outside(key: str, value: np.ndarray, file: str, offset: int) -> Any:
    """A tensor whose values lie in another file."""
    from onnx import TensorProto, helper

    kind = helper.np_dtype_to_tensor_dtype(value.dtype)
    tensor = TensorProto(name=key, data_type=kind, dims=value.shape, data_location=TensorProto.EXTERNAL)
    for name, text in (("location", file), ("offset", str(offset)), ("length", str(value.nbytes))):
        tensor.external_data.add(key=name, value=text)
    return tensor
