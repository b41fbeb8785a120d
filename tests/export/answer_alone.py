"""Run as a script in a fresh process: asks a SavedModel and writes its answers, knowing TensorFlow alone.

    python answer_alone.py EXPORT QUESTIONS.json FOLDER

QUESTIONS: [[signature, {input: [base64, ...] or nested lists of uint8}], ...]. Writes FOLDER/load.npz and
FOLDER/c_api.npz, by `tf.saved_model.load` and by the C API: arrays `<index>/<output>`.
"""

import base64
import ctypes
import json
import pathlib
import sys

import numpy as np
import tensorflow as tf
import tensorflow_text  # noqa: F401 - registers the tokeniser's ops


def decoded(inputs: dict) -> dict[str, np.ndarray]:
    arrays = {}
    for name, value in inputs.items():
        if name == "pixels":
            arrays[name] = np.array(value, np.uint8)
        else:
            arrays[name] = np.array([base64.b64decode(item) for item in value], object)
    return arrays


def load(export: str):
    signatures = tf.saved_model.load(export).signatures

    def ask(signature, inputs):
        dtype = {"pixels": tf.uint8}
        outputs = signatures[signature](
            **{k: tf.constant(v.tolist(), dtype.get(k, tf.string), v.shape) for k, v in inputs.items()}
        )
        return {name: value.numpy() for name, value in outputs.items()}

    return ask


class Output(ctypes.Structure):
    _fields_ = [("operation", ctypes.c_void_p), ("index", ctypes.c_int)]


class Buffer(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("length", ctypes.c_size_t),
        ("deallocator", ctypes.c_void_p),
    ]


def c_api(export: str):
    """A session by `TF_LoadSessionFromSavedModel`, the C++ loader that TensorFlow Serving uses."""
    tf_c = ctypes.CDLL(str(pathlib.Path(tf.__file__).parent / "libtensorflow_cc.so.2"), ctypes.RTLD_GLOBAL)
    pointer = ctypes.c_void_p
    for name in [
        "TF_NewStatus",
        "TF_NewGraph",
        "TF_NewSessionOptions",
        "TF_LoadSessionFromSavedModel",
        "TF_GraphOperationByName",
        "TF_AllocateTensor",
        "TF_TensorData",
        "TF_NewBuffer",
    ]:
        getattr(tf_c, name).restype = pointer
    tf_c.TF_Message.restype = ctypes.c_char_p
    tf_c.TF_Dim.restype = ctypes.c_int64
    tf_c.TF_TensorByteSize.restype = ctypes.c_size_t
    status = pointer(tf_c.TF_NewStatus())

    def check():
        if tf_c.TF_GetCode(status):
            raise RuntimeError(tf_c.TF_Message(status).decode(errors="replace"))

    graph, options = pointer(tf_c.TF_NewGraph()), pointer(tf_c.TF_NewSessionOptions())
    meta = pointer(tf_c.TF_NewBuffer())
    tags = (ctypes.c_char_p * 1)(b"serve")
    session = pointer(tf_c.TF_LoadSessionFromSavedModel(options, None, export.encode(), tags, 1, graph, meta, status))
    check()
    buffer = Buffer.from_address(meta.value)
    signatures = tf.compat.v1.MetaGraphDef.FromString(ctypes.string_at(buffer.data, buffer.length)).signature_def

    def endpoint(name):
        operation, index = name.split(":")
        return Output(tf_c.TF_GraphOperationByName(graph, operation.encode()), int(index))

    def tensor(array):
        dims = (ctypes.c_int64 * array.ndim)(*array.shape)
        if array.dtype == np.uint8:
            result = pointer(tf_c.TF_AllocateTensor(4, dims, array.ndim, ctypes.c_size_t(array.nbytes)))
            ctypes.memmove(tf_c.TF_TensorData(result), array.tobytes(), array.nbytes)
            return result
        result = pointer(tf_c.TF_AllocateTensor(7, dims, array.ndim, ctypes.c_size_t(24 * array.size)))
        for i, value in enumerate(array.ravel()):
            place = pointer(tf_c.TF_TensorData(result) + 24 * i)
            tf_c.TF_StringInit(place)
            tf_c.TF_StringCopy(place, value, ctypes.c_size_t(len(value)))
        return result

    def array(value):
        value = pointer(value)
        dtype = {1: np.float32, 3: np.int32}[tf_c.TF_TensorType(value)]
        shape = [tf_c.TF_Dim(value, i) for i in range(tf_c.TF_NumDims(value))]
        data = ctypes.string_at(tf_c.TF_TensorData(value), tf_c.TF_TensorByteSize(value))
        return np.frombuffer(data, dtype).reshape(shape)

    def ask(signature, inputs):
        definition = signatures[signature]
        names = [name for name, info in definition.outputs.items() if info.dtype in (1, 3)]
        feeds = (Output * len(inputs))(*[endpoint(definition.inputs[name].name) for name in inputs])
        values = (pointer * len(inputs))(*[tensor(value).value for value in inputs.values()])
        fetches = (Output * len(names))(*[endpoint(definition.outputs[name].name) for name in names])
        results = (pointer * len(names))()
        tf_c.TF_SessionRun(
            session, None, feeds, values, len(inputs), fetches, results, len(names), None, 0, None, status
        )
        check()
        return {name: array(result) for name, result in zip(names, results, strict=True)}

    return ask


def main(export: str, questions: str, folder: str) -> None:
    asked = json.loads(pathlib.Path(questions).read_text())
    for how in (load, c_api):
        ask = how(export)
        results = {}
        for i, (signature, inputs) in enumerate(asked):
            results |= {f"{i}/{name}": value for name, value in ask(signature, decoded(inputs)).items()}
        answers = {k: v.astype("S") if v.dtype == object else v for k, v in results.items()}
        np.savez(pathlib.Path(folder, f"{how.__name__}.npz"), **answers)
    # TensorFlow itself imports keras; that no Keras object is in the SavedModel is tested from its object graph.
    assert "siglip_tf" not in sys.modules


if __name__ == "__main__":
    main(*sys.argv[1:])
