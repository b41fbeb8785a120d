"""Exports a checkpoint as a SavedModel for TensorFlow Serving, a LiteRT file for small devices, or ONNX files.

    python -m tools.export CHECKPOINT DIR
    python -m tools.export CHECKPOINT DIR --to litert
    python -m tools.export CHECKPOINT DIR --to onnx

The first writes DIR/<version>/ and DIR/README.md, which says how to start a server, how to ask it, and how to read its
scores. It then asks the new version in a fresh process without Keras objects. The others write the towers,
DIR/tokenizer.model, and a README with a program that asks them, and ask the files with ai-edge-litert or onnxruntime.
ONNX comes with a page for browsers and needs `pip install "siglip-tf[onnx]"`. For example:

    python -m tools.export siglip_b16 served/siglip --precision bfloat16
    python -m tools.export siglip_b16 served/birds --labels birds.txt --templates photos
    python -m tools.export siglip_b16 phone --to litert --precision int8 --calibration pictures/
    python -m tools.export siglip_b16 web --to onnx
"""

import argparse
import os
import sys
import time
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf

import siglip_tf
from siglip_tf.evaluation.templates import TEMPLATES, read_templates
from siglip_tf.evaluation.text_files import read_names
from siglip_tf.export import export_saved_model, litert, onnx
from siglip_tf.export.saved_model import MAX_PIXELS
from siglip_tf.export.weights import PRECISIONS

from .checkpoint_argument import add_checkpoint, load_model
from .command import command_parser, exit_status
from .export_checks import check_litert, check_onnx, check_saved_model

_CALIBRATION_RECORDS = 100
_PRECISIONS = {"saved_model": PRECISIONS, "litert": litert.PRECISIONS, "onnx": onnx.PRECISIONS}


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = command_parser("export", __doc__)
    add_checkpoint(parser)
    parser.add_argument("directory", metavar="DIR", help="base folder of the served model, local or gs://")
    parser.add_argument(
        "--version", type=int, metavar="N", help="version number (default: one more than the largest in the folder)"
    )
    parser.add_argument("--to", choices=tuple(_PRECISIONS), default="saved_model", help="default %(default)s")
    parser.add_argument(
        "--precision",
        choices=sorted({name for names in _PRECISIONS.values() for name in names}),
        default="float32",
        help="; ".join(f"{to}: {', '.join(names)}" for to, names in _PRECISIONS.items()) + " (default float32)",
    )
    parser.add_argument("--calibration", metavar="SOURCE", help="litert int8: some dozens of pictures with captions")
    parser.add_argument(
        "--labels", metavar="FILE", help="file of class names, one per line, for the signature classify_bank"
    )
    parser.add_argument(
        "--templates",
        default="name",
        metavar="T",
        help=f"templates of the labels: {', '.join(TEMPLATES)}, or a file (default: name)",
    )
    parser.add_argument(
        "--max-pixels", type=int, default=MAX_PIXELS, metavar="N", help="largest image to decode, in pixels"
    )
    parser.add_argument(
        "--model-name", metavar="NAME", help="name of the model on the server (default: the folder's name)"
    )
    parser.add_argument("--no-check", action="store_true", help="do not test the export in a fresh process")
    options = parser.parse_args(arguments)
    known = _PRECISIONS[options.to]
    if options.precision not in known:
        parser.error(f"--to {options.to} knows --precision {', '.join(known)}. Received: {options.precision}.")
    if (options.calibration is not None) != (options.to == "litert" and options.precision == "int8"):
        parser.error("--calibration SOURCE belongs to --to litert --precision int8, which needs it.")
    of_saved_model = ("labels", "templates", "version", "model_name", "max_pixels")
    given = [name for name in of_saved_model if getattr(options, name) != parser.get_default(name)]
    if options.to != "saved_model" and given:
        parser.error(f"--{given[0].replace('_', '-')} belongs to --to saved_model.")
    run = {"saved_model": _run_saved_model, "litert": _run_litert, "onnx": _run_onnx}[options.to]
    return exit_status(lambda: run(options))


def _run_litert(options: argparse.Namespace) -> None:
    started = time.monotonic()
    model = load_model(options)
    data: dict[str, Any] = {}
    if options.calibration is not None:
        data = dict(
            zip(("calibration_images", "calibration_texts"), calibration_data(model, options.calibration), strict=True)
        )
    export = litert.export_litert(model, options.directory, precision=options.precision, **data)
    print(f"Wrote {export.path}/{litert.FILE}: {export.model_bytes / 1e6:,.1f} MB, {export.precision}")
    if not options.no_check:
        print(check_litert(model, export))
    print(f"Done in {time.monotonic() - started:.1f} s. How to ask it: {options.directory}/README.md")


def _run_onnx(options: argparse.Namespace) -> None:
    started = time.monotonic()
    try:
        onnx.require_tf2onnx()
    except ModuleNotFoundError as error:
        raise ValueError(str(error)) from error
    model = load_model(options)
    export = onnx.export_onnx(model, options.directory, precision=options.precision)
    names = ", ".join(f"{name}.onnx" for name in onnx.TOWERS)
    print(
        f"Wrote {names} into {export.path}: {export.model_bytes / 1e6:,.1f} MB, {export.precision}, opset {onnx.OPSET}"
    )
    if not options.no_check:
        print(check_onnx(model, export))
    print(f"Done in {time.monotonic() - started:.1f} s. How to ask them: {options.directory}/README.md")


def calibration_data(model: siglip_tf.SigLIP, location: str) -> tuple[np.ndarray, list[str]]:
    """Images as the tower takes them and captions: records spread evenly over the source at `location`."""
    from siglip_tf.data.sources.opening import open_source

    source = open_source(location)
    numbers = np.linspace(0, source.size - 1, min(source.size, _CALIBRATION_RECORDS)).astype(np.int64)
    records = [source.read(tf.constant(i, tf.int64)) for i in numbers]
    images = [model.preprocessing.image(record["image"]).numpy() for record in records]
    return np.stack(images), [record["captions"][0].numpy().decode() for record in records]


def _run_saved_model(options: argparse.Namespace) -> None:
    started = time.monotonic()
    labels = read_names(options.labels) if options.labels else None
    templates = read_templates(options.templates)
    model = load_model(options)
    print(f"Writing a version into {options.directory} ...", flush=True)
    export = export_saved_model(
        model,
        options.directory,
        version=options.version,
        precision=options.precision,
        labels=labels,
        templates=templates,
        max_pixels=options.max_pixels,
        model_name=options.model_name,
    )
    print(f"Wrote {export.path}: {export.weight_bytes / 1e6:,.1f} MB of {options.precision} weights, signatures")
    print(f"  {', '.join(export.signatures)}")
    if not options.no_check:
        print("Asking it in a fresh process ...", flush=True)
        print(check_saved_model(model, export, options.precision))
    print(f"Done in {time.monotonic() - started:.1f} s. How to serve it: {options.directory}/README.md")


if __name__ == "__main__":
    sys.exit(main())
