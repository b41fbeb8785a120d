"""Exports a checkpoint as a SavedModel for TensorFlow Serving, or as a LiteRT file for small devices.

    python -m tools.export CHECKPOINT DIR
    python -m tools.export CHECKPOINT DIR --to litert

The first writes DIR/<version>/ and DIR/README.md, which says how to start a server, how to ask it, and how to read its
scores. It then asks the new version in a fresh process without Keras objects. The second writes DIR/model.tflite,
DIR/tokenizer.model, and a README with a program that asks them, and asks the file with ai-edge-litert. For example:

    python -m tools.export siglip_b16 served/siglip --precision bfloat16
    python -m tools.export siglip_b16 served/birds --labels birds.txt --templates photos
    python -m tools.export siglip_b16 phone --to litert --precision int8 --calibration pictures/
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf

import siglip_tf
from siglip_tf.evaluation.templates import TEMPLATES, read_templates
from siglip_tf.evaluation.text_files import read_names
from siglip_tf.export import Export, export_saved_model, litert
from siglip_tf.export.saved_model import MAX_PIXELS
from siglip_tf.export.warmup import example_requests
from siglip_tf.export.weights import PRECISIONS

from .checkpoint_argument import add_checkpoint, load_model
from .command import command_parser, exit_status

_CALIBRATION_RECORDS = 100

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


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = command_parser("export", __doc__)
    add_checkpoint(parser)
    parser.add_argument("directory", metavar="DIR", help="base folder of the served model, gs:// too")
    parser.add_argument("--version", type=int, metavar="N", help="by default one more than the largest there")
    parser.add_argument("--to", choices=("saved_model", "litert"), default="saved_model", help="default %(default)s")
    choices = sorted({*PRECISIONS, *litert.PRECISIONS})
    parser.add_argument(
        "--precision",
        choices=choices,
        default="float32",
        help=f"saved_model: {', '.join(PRECISIONS)}; litert: {', '.join(litert.PRECISIONS)} (default float32)",
    )
    parser.add_argument("--calibration", metavar="SOURCE", help="litert int8: pictures with captions, some dozens")
    parser.add_argument("--labels", metavar="FILE", help="class names to bake in, one a line: signature classify_bank")
    parser.add_argument(
        "--templates", default="name", metavar="T", help=f"for labels: {', '.join(TEMPLATES)}, or a file (default name)"
    )
    parser.add_argument("--max-pixels", type=int, default=MAX_PIXELS, metavar="N", help="largest image decoded")
    parser.add_argument("--model-name", metavar="NAME", help="as the server will call it (default: the folder's name)")
    parser.add_argument("--no-check", action="store_true", help="do not ask the export in a fresh process")
    options = parser.parse_args(arguments)
    known = PRECISIONS if options.to == "saved_model" else litert.PRECISIONS
    if options.precision not in known:
        parser.error(f"--to {options.to} knows --precision {', '.join(known)}. Received: {options.precision}.")
    if (options.calibration is not None) != (options.to == "litert" and options.precision == "int8"):
        parser.error("--calibration SOURCE belongs to --to litert --precision int8, which needs it.")
    if options.to == "litert" and (options.labels or options.version is not None or options.model_name):
        parser.error("--labels, --version, and --model-name belong to --to saved_model.")
    return exit_status(lambda: _run_litert(options) if options.to == "litert" else _run(options))


def _run_litert(options: argparse.Namespace) -> None:
    started = time.monotonic()
    model = load_model(options)
    data = {}
    if options.calibration is not None:
        data = dict(zip(("calibration_images", "calibration_texts"), _calibration(model, options), strict=True))
    export = litert.export_litert(model, options.directory, precision=options.precision, **data)
    print(f"Wrote {export.path}/{litert.FILE}: {export.model_bytes / 1e6:,.1f} MB, {export.precision}")
    if not options.no_check:
        print(_check_litert(model, export))
    print(f"Done in {time.monotonic() - started:.1f} s. How to ask it: {options.directory}/README.md")


def _calibration(model: siglip_tf.SigLIP, options: argparse.Namespace) -> tuple[np.ndarray, list[str]]:
    """Images as the tower takes them and captions, of the first records of the source."""
    from siglip_tf.data.sources.opening import open_source

    source = open_source(options.calibration)
    records = [source.read(tf.constant(i, tf.int64)) for i in range(min(source.size, _CALIBRATION_RECORDS))]
    images = [model.preprocessing.image(record["image"]).numpy() for record in records]
    return np.stack(images), [record["captions"][0].numpy().decode() for record in records]


def _check_litert(model: siglip_tf.SigLIP, export: litert.LiteRTExport) -> str:
    """Compares the answers of the file with the model's.

    Raises:
        ValueError: they differ by more than the precision explains.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        return "Not checked: the interpreter is not installed (pip install ai-edge-litert)."
    (_, inputs), *_ = example_requests(model.preprocessing.image.size, ["embed_image"], [1])
    image = model.preprocessing.image(inputs["images"][0])[None]
    ids = model.preprocessing.text(["A photo of a drawing"])
    interpreter = Interpreter(f"{export.path}/{litert.FILE}")
    found = {
        "image": interpreter.get_signature_runner("encode_image")(images=image.numpy())["embedding"],
        "text": interpreter.get_signature_runner("encode_text")(token_ids=ids.numpy())["embedding"],
    }
    expected = {"image": model.encode_image(image).numpy(), "text": model.encode_text(ids).numpy()}
    least = {"float32": 1 - 1e-6, "float16": 0.999}.get(export.precision, 0.99)
    cosines = {name: float(np.sum(found[name] * expected[name])) for name in expected}
    if not min(cosines.values()) >= least:  # NaN fails too
        raise ValueError(f"The file's embeddings differ from the model's: cosines {cosines}, expected {least} or more.")
    return ", ".join(f"{name} embedding: cosine {cosine:.6f} with the model's" for name, cosine in cosines.items())


def _run(options: argparse.Namespace) -> None:
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
        print(_check(model, export, options.precision))
    print(f"Done in {time.monotonic() - started:.1f} s. How to serve it: {options.directory}/README.md")


def _check(model: siglip_tf.SigLIP, export: Export, precision: str) -> str:
    """Compares the export's answers, given alone, with the model's.

    Raises:
        ValueError: they differ by more than the precision explains.
    """
    (_, inputs), *_ = example_requests(model.preprocessing.image.size, ["embed_image"], [1])
    text = "A photo of a drawing"
    with tempfile.TemporaryDirectory() as folder:
        image, answers = Path(folder, "image.jpg"), Path(folder, "answers.npz")
        image.write_bytes(inputs["images"][0])
        command = [sys.executable, "-c", _ASK_ALONE, os.path.abspath(export.path), str(image), text, str(answers)]
        if "://" in export.path:
            command[3] = export.path
        result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if result.returncode:
            raise ValueError(f"The export at {export.path} does not answer by itself:\n{result.stderr[-2000:]}")
        found = np.load(answers)
        expected = {
            "embed_image": model.encode_image(model.preprocessing.image(inputs["images"][0])[None]),
            "embed_text": model.encode_text(model.preprocessing.text([text])),
        }
        allowed = {"float32": 1e-5, "int8": 0.2}.get(precision, 2e-2)
        worst = max(float(tf.reduce_max(tf.abs(found[name] - value))) for name, value in expected.items())
    if not worst <= allowed:
        raise ValueError(f"The export at {export.path} differs from the model by {worst:.2g}: allowed are {allowed}.")
    return f"Its embeddings differ from the model's by at most {worst:.1e}."


if __name__ == "__main__":
    sys.exit(main())
