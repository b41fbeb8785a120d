"""What `tools.export` does after writing: it asks the export, and compares the answers with the model's."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf

import siglip_tf
from siglip_tf.export import Export, litert, onnx
from siglip_tf.export.towers import TowersExport
from siglip_tf.export.warmup import example_requests

_TEXT = "A photo of a drawing"
# Largest difference of an element of a unit vector, and smallest cosine, by precision.
_MOST_ERROR = {"float32": 1e-4}
_LEAST_COSINE = {"float32": 1 - 1e-6, "float16": 0.999, "int8": 0.95}
_LEAST_COSINE_OF_INT8 = 0.99  # of 8-bit weights; "int8" multiplies in 8 bits too

# What the README's Python example does, and nothing of this package.
_ASK_ALONE = """
import sys
import numpy as np, tensorflow as tf, tensorflow_text
path, image, text, answers = sys.argv[1:]
signatures = tf.saved_model.load(path).signatures
images, texts = tf.constant([open(image, "rb").read()]), tf.constant([text])
embeddings = {n: signatures[n](**v)["embedding"] for n, v in
              {"embed_image": {"images": images}, "embed_text": {"texts": texts}}.items()}
score = signatures["score"](images=images, texts=texts)["logits"]
assert "siglip_tf" not in sys.modules
np.savez(answers, logits=score, **embeddings)
"""


def check_saved_model(model: siglip_tf.SigLIP, export: Export, precision: str) -> str:
    """Compares the answers of an export, given in a process of its own, with the model's.

    Raises:
        ValueError: they differ by more than the precision explains.
    """
    (_, inputs), *_ = example_requests(model.image_size[0], ["embed_image"], [1])
    with tempfile.TemporaryDirectory() as folder:
        image, answers = Path(folder, "image.jpg"), Path(folder, "answers.npz")
        image.write_bytes(inputs["images"][0])
        path = export.path if "://" in export.path else os.path.abspath(export.path)
        command = [sys.executable, "-c", _ASK_ALONE, path, str(image), _TEXT, str(answers)]
        result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if result.returncode:
            raise ValueError(f"The export at {export.path} does not answer by itself:\n{result.stderr[-2000:]}")
        found = np.load(answers)
        images, ids = _inputs(model)
        expected = {"embed_image": model.encode_image(images), "embed_text": model.encode_text(ids)}
        allowed = {"float32": 1e-5, "int8": 0.2}.get(precision, 2e-2)
        worst = max(float(tf.reduce_max(tf.abs(found[name] - value))) for name, value in expected.items())
    if not worst <= allowed:
        raise ValueError(f"The export at {export.path} differs from the model by {worst:.2g}: allowed are {allowed}.")
    return f"Its embeddings differ from the model's by at most {worst:.1e}."


def check_litert(model: siglip_tf.SigLIP, export: TowersExport) -> str:
    """Compares the answers of a LiteRT file with the model's; raises a ValueError as `check_saved_model` does."""
    try:
        ask = litert_towers(export.path)
    except ImportError:
        return "Not checked: the interpreter is not installed (pip install ai-edge-litert)."
    return _compared(model, ask, export.precision)


def check_onnx(model: siglip_tf.SigLIP, export: TowersExport) -> str:
    """Compares the answers of ONNX files with the model's; raises a ValueError as `check_saved_model` does."""
    try:
        ask = onnx_towers(export.path)
    except ImportError:
        return "Not checked: onnxruntime is not installed (pip install onnxruntime)."
    return _compared(model, ask, export.precision)


def litert_towers(folder: str, threads: int | None = None) -> Callable[..., np.ndarray]:
    """`ask(tower, **inputs)`, which returns the embeddings of a LiteRT export."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=_read(f"{folder}/{litert.FILE}"), num_threads=threads)
    runners = {name: interpreter.get_signature_runner(name) for name in ("encode_image", "encode_text")}
    return lambda tower, **inputs: runners[tower](**inputs)["embedding"]


def onnx_towers(folder: str, threads: int | None = None) -> Callable[..., np.ndarray]:
    """`ask(tower, **inputs)`, which returns the embeddings of an ONNX export."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    # By its path, where it has one: a data file is looked for beside it.
    files = {name: f"{folder}/{name}.onnx" for name in onnx.TOWERS}
    sessions = {
        name: onnxruntime.InferenceSession(_read(file) if "://" in file else file, options, ["CPUExecutionProvider"])
        for name, file in files.items()
    }
    return lambda tower, **inputs: sessions[tower].run(None, inputs)[0]


def tower_inputs(images) -> dict[str, np.ndarray]:
    """The inputs of an exported image tower, of what the model's preprocessing made of a batch of images."""
    if isinstance(images, dict):
        return {name: np.asarray(value) for name, value in images.items()}
    return {"images": np.asarray(images)}


def _inputs(model: siglip_tf.SigLIP) -> tuple:
    """A batch of one image as the model takes it, and of one text."""
    (_, inputs), *_ = example_requests(model.image_size[0], ["embed_image"], [1])
    image = model.preprocessing.image(inputs["images"][0])
    return tf.nest.map_structure(lambda value: value[None], image), model.preprocessing.text([_TEXT])


def _compared(model: siglip_tf.SigLIP, ask: Callable[..., np.ndarray], precision: str) -> str:
    images, ids = _inputs(model)
    pairs = {
        "image": (ask("encode_image", **tower_inputs(images)), model.encode_image(images).numpy()),
        "text": (ask("encode_text", token_ids=ids.numpy()), model.encode_text(ids).numpy()),
    }
    said = []
    for name, (found, expected) in pairs.items():
        cosine, error = float(np.sum(found * expected)), float(np.abs(found - expected).max())
        least, most = _LEAST_COSINE.get(precision, _LEAST_COSINE_OF_INT8), _MOST_ERROR.get(precision, np.inf)
        if not (cosine >= least and error <= most):  # NaN fails too
            raise ValueError(
                f"Expected the {name} embedding of the export to be the model's: a cosine of at least {least} and an "
                f"error of at most {most}. Received: a cosine of {cosine:.6f} and an error of {error:.2g}."
            )
        said.append(f"{name} embedding: cosine {cosine:.6f} with the model's, error {error:.1e}")
    return ", ".join(said)


def _read(path: str) -> bytes:
    with tf.io.gfile.GFile(path, "rb") as file:
        return file.read()
