"""`export_saved_model`: one version folder of a TensorFlow Serving model, which no server sees half written."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import keras
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from siglip_tf.data.preprocessing import Preprocessing
from siglip_tf.export.readme import readme
from siglip_tf.export.serving import ServingGraph
from siglip_tf.export.towers import checked_preprocessing
from siglip_tf.export.version_folder import write_file_list
from siglip_tf.export.warmup import WARMUP_FILE, example_requests, write_warmup_requests
from siglip_tf.export.weights import StoredWeights
from siglip_tf.storage import new_folder, write_file

# 120 MB of pixels per image, four at a time: a server's memory is not in a stranger's hands.
MAX_PIXELS = 40_000_000


@dataclass(frozen=True)
class Export:
    """What was written: the version folder, its number, its signatures, and the bytes of its weights."""

    path: str
    version: int
    signatures: tuple[str, ...]
    weight_bytes: int


def export_saved_model(
    model: keras.Model,
    directory: str | os.PathLike,
    *,
    preprocessing: Preprocessing | None = None,
    version: int | None = None,
    precision: str = "float32",
    labels: Sequence[str] | None = None,
    templates: Sequence[str] = ("{}",),
    max_pixels: int = MAX_PIXELS,
    model_name: str | None = None,
) -> Export:
    """Writes `directory/<version>/`, a SavedModel for TensorFlow Serving, and `directory/README.md`.

    Signatures: `embed_image`, `embed_image_pixels`, `embed_text`, `score`, `classify`, `classify_with_templates`, with
    `labels` also `classify_bank`; see `ServingGraph`. The folder loads where TensorFlow and tensorflow-text are,
    without Keras and this package. A server never loads half a version: on a disk the
    complete folder is renamed, and an object store gets `saved_model.pb` last. A list of the files and their sizes lets
    `siglip_tf.serve` see a copy of the folder that is not finished.

    Args:
        model: a `SigLIP` with an image tower.
        directory: the model's base path, local or any that TensorFlow writes (`gs://`).
        preprocessing: by default the model's own.
        version: a number above 0; by default one more than the largest there.
        precision: of stored matrices: "float32", "bfloat16", "float16" or "int8" (weights only, a scale a channel).
        labels: class names baked in, so that `classify_bank` costs one image pass.
        templates: prompts for labels, each with exactly one `{}`.
        max_pixels: largest image that the server decodes; a larger one is an InvalidArgument error.
        model_name: as `--model_name` of the server; by default the directory's last part.

    Raises:
        ValueError: no image tower, no preprocessing, a tokenizer that does not fit, bad labels, templates or version.
        FileExistsError: the version is there already.
    """
    directory = os.fspath(directory).rstrip("/")
    preprocessing = _serving_preprocessing(model, preprocessing, max_pixels)
    labels, templates = _checked_labels(labels), _checked_templates(templates)
    version, target = _next_version(directory, version)
    model_name = model_name or os.path.basename(os.path.abspath(directory))

    model = model.merge_lora()  # the server's graph has no adapters
    weights = StoredWeights(model, precision)
    graph = ServingGraph(model, preprocessing, weights, templates)
    if labels:
        graph.add_bank(labels)
    functions = graph.signatures()

    # A server that watches the folder loads a version as soon as it finds its `saved_model.pb`.
    with new_folder(target, last="saved_model.pb", replace=False) as aside:
        options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
        tf.saved_model.save(graph.resources, aside, signatures=functions, options=options)
        _drop_custom_gradients(aside)
        os.makedirs(f"{aside}/assets.extra")
        write_warmup_requests(
            f"{aside}/assets.extra/{WARMUP_FILE}", model_name, example_requests(model.image_size[0], functions)
        )
        write_file_list(aside)
    export = Export(target, version, tuple(functions), weights.bytes)
    text = readme(model, export, model_name=model_name, precision=precision, labels=labels, templates=templates)
    write_file(f"{directory}/README.md", text)
    return export


def _drop_custom_gradients(path: str) -> None:
    """Takes the names of custom gradients off the saved ops: nobody trains there, and loading would warn of each."""
    with tf.io.gfile.GFile(f"{path}/saved_model.pb", "rb") as file:
        saved = saved_model_pb2.SavedModel.FromString(file.read())
    for meta_graph in saved.meta_graphs:
        for function in meta_graph.graph_def.library.function:
            for node in function.node_def:
                node.attr.pop("_gradient_op_type", None)
    with tf.io.gfile.GFile(f"{path}/saved_model.pb", "wb") as file:
        file.write(saved.SerializeToString(deterministic=True))


def _serving_preprocessing(model: keras.Model, preprocessing: Preprocessing | None, max_pixels: int) -> Preprocessing:
    preprocessing = checked_preprocessing(model, preprocessing)
    image = preprocessing.image
    least = model.image_size[0] * model.image_size[1]
    if max_pixels < least:
        raise ValueError(f"Expected max_pixels of at least {least}. Received: {max_pixels}.")
    image = type(image).from_config(image.to_config() | {"max_pixels": max_pixels})
    return Preprocessing(image, preprocessing.text)


def _checked_labels(labels: Sequence[str] | None) -> tuple[str, ...]:
    labels = tuple(labels or ())
    if len(set(labels)) < len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise ValueError(f"Label {twice!r} is there twice.")
    if any(not label.strip() for label in labels):
        raise ValueError("A label is empty.")
    return labels


def _checked_templates(templates: Sequence[str]) -> tuple[str, ...]:
    templates = (templates,) if isinstance(templates, str) else tuple(templates)
    if not templates or any(template.count("{}") != 1 for template in templates):
        raise ValueError(f"Each template needs exactly one `{{}}`, and there must be one. Received: {templates}.")
    return templates


def _next_version(directory: str, version: int | None) -> tuple[int, str]:
    there = [int(name.rstrip("/")) for name in _listdir(directory) if name.rstrip("/").isdigit()]
    if version is None:
        version = max(there, default=0) + 1
    if version < 1:
        raise ValueError(f"Expected a version above 0. Received: {version}.")
    if version in there:
        raise FileExistsError(f"{directory}/{version} is there already: choose another version or remove it.")
    return version, f"{directory}/{version}"


def _listdir(directory: str) -> list[str]:
    return tf.io.gfile.listdir(directory) if tf.io.gfile.isdir(directory) else []
