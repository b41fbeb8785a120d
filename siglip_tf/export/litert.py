"""`export_litert`: both towers as signatures of one LiteRT (TensorFlow Lite) file, for phones and small devices.

LiteRT has no kernels for JPEG decoding and SentencePiece. A client resizes images and tokenizes texts itself: the
README beside the file says exactly how, and `tokenizer.model` is the checkpoint's own.
"""

import json
import os
import tempfile
import warnings
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from siglip_tf.data.preprocessing import Preprocessing
from siglip_tf.export.client import SETTINGS_FILE, TOKENIZER_FILE, client_settings
from siglip_tf.export.client_readme import litert_readme
from siglip_tf.export.towers import TowersExport, checked_preprocessing, tower_functions
from siglip_tf.storage import write_file

PRECISIONS = ("float32", "float16", "int8_weights", "int8")
FILE = "model.tflite"


def export_litert(
    model: keras.Model,
    directory: str | os.PathLike,
    *,
    preprocessing: Preprocessing | None = None,
    precision: str = "float32",
    calibration_images: np.ndarray | None = None,
    calibration_texts: Sequence[str] = (),
) -> TowersExport:
    """Writes `directory/model.tflite`, `tokenizer.model`, `preprocessing.json`, and `README.md`.

    Signatures: `encode_image`, `images` float32 (batch, height, width, 3) in [-1, 1] -> `embedding` (batch, dim), and
    `encode_text`, `token_ids` int32 (batch, length) -> `embedding` (batch, dim), both float32 and l2-normalized.

    Args:
        model: a `SigLIP` with an image tower.
        directory: the folder to write, local or any that TensorFlow writes.
        preprocessing: by default the model's own.
        precision: "float32"; "float16" stores half-precision weights; "int8_weights" stores 8-bit weights and computes
            in float32 ("dynamic range"); "int8" also computes matrix products in 8 bits, with ranges found on the
            calibration data.
        calibration_images: float32 (n, height, width, 3) in [-1, 1], some dozens; "int8" needs them.
        calibration_texts: texts like those that will be asked; "int8" needs them.

    Raises:
        ValueError: no image tower or preprocessing, a NaFlex model, an unknown precision, or "int8" without calibration
            data.
    """
    preprocessing = checked_preprocessing(model, preprocessing)
    if model.max_patches is not None:
        raise ValueError(
            "Expected a model of a fixed resolution for LiteRT. NaFlex models export to saved_model and onnx."
        )
    if precision not in PRECISIONS:
        raise ValueError(f"Expected precision to be one of {', '.join(PRECISIONS)}. Received: {precision!r}.")
    if precision == "int8" and (calibration_images is None or not len(calibration_texts)):
        raise ValueError("Expected calibration images and texts with precision='int8'. Received: none.")

    model = model.merge_lora()  # the file has no adapters
    towers = tower_functions(model)
    signatures = {name: function.get_concrete_function() for name, function in towers.functions.items()}
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(towers.module, folder, signatures=signatures)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=list(signatures))
        if precision != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if precision == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if precision == "int8":
            ids = preprocessing.text(list(calibration_texts)).numpy()
            converter.representative_dataset = _calibration(calibration_images, ids)
        with warnings.catch_warnings():  # of the interpreter with which the converter itself calibrates
            warnings.filterwarnings("ignore", message=".*tf.lite.Interpreter is deprecated", category=UserWarning)
            content = converter.convert()

    directory = os.fspath(directory).rstrip("/")
    write_file(f"{directory}/{TOKENIZER_FILE}", preprocessing.text.model_proto)
    write_file(f"{directory}/{SETTINGS_FILE}", json.dumps(client_settings(model, preprocessing), indent=1))
    write_file(f"{directory}/README.md", litert_readme(model, preprocessing, precision, len(content)))
    write_file(f"{directory}/{FILE}", content)  # last: a folder with this file is complete
    return TowersExport(directory, precision, len(content))


def _calibration(images: np.ndarray, ids: np.ndarray) -> Callable:
    def examples():
        for image in images:
            yield "encode_image", {"images": image[None].astype(np.float32)}
        for row in ids:
            yield "encode_text", {"token_ids": row[None].astype(np.int32)}

    return examples
