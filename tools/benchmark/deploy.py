"""Exports beside the float32 model: size, error, zero-shot accuracy, and latency of every format.

python -m tools.benchmark deploy [CHECKPOINT] [--task TASK] [--calibration SOURCE] [--rounds 50]

The checkpoint, by default the quickstart's of handwritten digits, is exported to SavedModel, LiteRT (float32, float16,
8-bit weights, full 8-bit), and ONNX. Each export then embeds the images and prompts of a zero-shot task:

- size: bytes of the model on disk, without tokenizer and README (a SavedModel holds both towers and its tokenizer);
- error: the largest difference of an element from the float32 model's embeddings, and the smallest cosine with them;
- top-1: accuracy of the task;
- image, text: median milliseconds of a call at batch 1 and 8, formats in turn. LiteRT and ONNX take prepared images and
  token ids. A SavedModel takes pixels of the right size and strings, and tokenizes.

A second table compares a small NaFlex model of random weights with transformers, where that is installed: the largest
difference of a logit over 30 pictures from 1 x 700 to 2,000 x 37 pixels, from both sources of checkpoints and from the
exports.

The command fails where an export is outside its bounds: an error of 1e-4 in float32, cosines of 0.999 in float16 and of
0.99 in 8 bits, and an accuracy within one point of the model's. NaFlex logits must be within 1e-4.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# TensorFlow reads it while it is imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np

CHECKPOINT = "runs/quickstart-digits/checkpoint"
TASK = "zero_shot:folder=runs/digits/images/test,templates=name"
CALIBRATION = "runs/digits"

_BATCHES = (1, 8)
# What each precision may cost: the largest error of an element, the smallest cosine.
_BOUNDS = {
    "float32": (1e-4, 1 - 1e-6),
    "float16": (np.inf, 0.999),
    "int8_weights": (np.inf, 0.99),
    "int8": (np.inf, 0.99),  # matrix products in 8 bits too
}
_POINT = 0.01


@dataclass
class Format:
    """An exported model. Both functions take batches and return embeddings; texts are strings and their ids."""

    name: str
    precision: str
    size: int
    images: Callable[[dict[str, np.ndarray]], np.ndarray]
    texts: Callable[[list[str], np.ndarray], np.ndarray]
    found: dict[str, np.ndarray] = field(default_factory=dict)
    seconds: dict[tuple[str, int], list[float]] = field(default_factory=dict)


def main(argv: list[str]) -> None:
    """Prints the table; ends with status 1 where an export is outside its bounds."""
    parser = argparse.ArgumentParser(
        "tools.benchmark deploy", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", nargs="?", default=CHECKPOINT, metavar="CHECKPOINT", help="default: %(default)s")
    parser.add_argument("--task", default=TASK, help="zero-shot task, as in tools.evaluate (%(default)s)")
    parser.add_argument(
        "--calibration",
        default=CALIBRATION,
        metavar="SOURCE",
        help="pictures with captions that calibrate full 8-bit LiteRT (%(default)s)",
    )
    parser.add_argument("--rounds", type=int, default=50, help="timed calls of each format (%(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of LiteRT and ONNX (all cores)")
    options = parser.parse_args(argv)
    if options.rounds < 1 or options.threads < 1:
        parser.error(f"Expected --rounds and --threads of at least 1. Received: {options.rounds}, {options.threads}.")
    from ..command import exit_status

    if status := exit_status(lambda: _run(options)):
        sys.exit(status)


def _run(options: argparse.Namespace) -> None:
    import siglip_tf
    from siglip_tf.evaluation.task_names import parse_task
    from siglip_tf.evaluation.tasks import ZeroShotTask
    from siglip_tf.export.onnx import require_tf2onnx

    if options.checkpoint == CHECKPOINT and not Path(CHECKPOINT).exists():
        raise ValueError(
            f"There is no {CHECKPOINT}: python -m tools.digits runs/digits; make quickstart DATA=runs/digits"
        )
    task = parse_task(options.task)
    if not isinstance(task, ZeroShotTask):
        raise ValueError(f"Expected a zero_shot task. Received: {options.task!r}.")
    try:
        require_tf2onnx()
    except ModuleNotFoundError as error:
        raise ValueError(str(error)) from error
    model = siglip_tf.SigLIP.from_checkpoint(options.checkpoint, verbose=False)
    if model.max_patches is not None:
        raise ValueError(
            f"Expected a checkpoint of a fixed resolution. Received: {options.checkpoint}, a NaFlex model."
        )
    data = _Data(model, task)
    with tempfile.TemporaryDirectory() as folder:
        formats = list(_formats(model, data, Path(folder), options))
        for form in formats:
            _embed(form, data)
        for turn in range(options.rounds + 3):  # the first calls allocate
            for form in formats:
                _time(form, data, keep=turn >= 3)
    print(
        f"{options.checkpoint}: {model.count_params():,} parameters, {len(data.labels)} images, {os.cpu_count()} cores"
    )
    failed = _print(formats, data) + _print_naflex()
    if failed:
        raise ValueError(f"Outside their bounds: {', '.join(failed)}.")
    print("Every export is within its bounds.")


class _Data:
    """The task's images and prompts, prepared."""

    def __init__(self, model, task):
        from siglip_tf.evaluation.zero_shot import make_prompts

        image = model.preprocessing.image
        examples = list(task.images.examples)
        self.pixels = [image.pixels(example["image"]) for example in examples]
        self.prompts = make_prompts(task.images.class_names, task.templates)
        self.ids = model.preprocessing.text(self.prompts).numpy()
        self.labels, self.templates, self.classes = task.images.labels, len(task.templates), task.class_subset
        self._normalize = image.normalize

    def batch(self, start: int, size: int) -> dict[str, np.ndarray]:
        """Images as pixels and as the towers take them; it starts again behind the last one."""
        import tensorflow as tf

        pixels = tf.stack([self.pixels[(start + i) % len(self.pixels)] for i in range(size)])
        return {"pixels": pixels, "inputs": {"images": self._normalize(pixels).numpy()}}

    def accuracy(self, found: dict[str, np.ndarray]) -> float:
        from siglip_tf.evaluation.zero_shot import average_prompts, zero_shot

        classes = average_prompts(_unit(found["texts"]), self.templates)
        return zero_shot(_unit(found["images"]), classes, self.labels, self.classes).top1


def _formats(model, data, folder: Path, options):
    import tensorflow as tf

    from siglip_tf.export import export_saved_model, litert, onnx

    from ..export import calibration_data
    from ..export_checks import litert_towers, onnx_towers

    encode_image, encode_text = (tf.function(f, autograph=False) for f in (model.encode_image, model.encode_text))

    yield Format(
        "model",
        "float32",
        4 * model.count_params(),
        lambda batch: encode_image(tf.constant(batch["inputs"]["images"])).numpy(),
        lambda _, ids: encode_text(tf.constant(ids)).numpy(),
    )

    export = export_saved_model(model, folder / "saved_model")
    signatures = tf.saved_model.load(export.path).signatures
    yield Format(
        "saved_model",
        "float32",
        sum(file.stat().st_size for file in Path(export.path).rglob("*") if file.is_file()),
        lambda batch: signatures["embed_image_pixels"](pixels=batch["pixels"])["embedding"].numpy(),
        lambda texts, _: signatures["embed_text"](texts=tf.constant(texts))["embedding"].numpy(),
    )

    def towers(name, export, ask):
        return Format(
            name,
            export.precision,
            export.model_bytes,
            lambda batch: ask("encode_image", **batch["inputs"]),
            lambda _, ids: ask("encode_text", token_ids=ids),
        )

    for precision in litert.PRECISIONS:
        given: dict[str, Any] = {}
        if precision == "int8":
            images, texts = calibration_data(model, options.calibration)
            given = {"calibration_images": images, "calibration_texts": texts}
        file = litert.export_litert(model, folder / precision, precision=precision, **given)
        yield towers(f"litert {precision}", file, litert_towers(file.path, options.threads))
    for precision in onnx.PRECISIONS:
        files = onnx.export_onnx(model, folder / f"onnx {precision}", precision=precision)
        yield towers(f"onnx {precision}", files, onnx_towers(files.path, options.threads))


def _embed(form: Format, data: _Data) -> None:
    size = 64
    images = [form.images(data.batch(i, size)) for i in range(0, len(data.pixels), size)]
    texts = [form.texts(data.prompts[i : i + size], data.ids[i : i + size]) for i in range(0, len(data.prompts), size)]
    form.found = {"images": np.concatenate(images)[: len(data.pixels)], "texts": np.concatenate(texts)}


def _time(form: Format, data: _Data, keep: bool) -> None:
    for size in _BATCHES:
        images = data.batch(0, size)
        rows = [i % len(data.prompts) for i in range(size)]
        texts, ids = [data.prompts[i] for i in rows], data.ids[rows]
        for side, embed, inputs in (("image", form.images, (images,)), ("text", form.texts, (texts, ids))):
            started = time.perf_counter()
            embed(*inputs)
            if keep:
                form.seconds.setdefault((side, size), []).append(time.perf_counter() - started)


def _print(formats: list[Format], data: _Data) -> list[str]:
    """The table; returns the names of exports outside their bounds."""
    model = formats[0]
    expected = data.accuracy(model.found)
    columns = [f"{side} {size}" for side in ("image", "text") for size in _BATCHES]
    print(f"\n| {'format':20} | size MB | error   | cosine   | top-1 % | {' | '.join(f'{c:>7}' for c in columns)} |")
    print(f"|{'-' * 22}|--------:|--------:|---------:|--------:|{'|'.join(['--------:'] * len(columns))}|")
    failed = []
    for form in formats:
        errors = [np.abs(form.found[side] - model.found[side]).max() for side in model.found]
        cosines = [np.sum(_unit(form.found[side]) * _unit(model.found[side]), 1).min() for side in model.found]
        error, cosine, accuracy = float(max(errors)), float(min(cosines)), data.accuracy(form.found)
        times = [1e3 * statistics.median(form.seconds[side, size]) for side in ("image", "text") for size in _BATCHES]
        print(
            f"| {form.name:20} | {form.size / 1e6:7.2f} | {error:7.1e} | {cosine:8.6f} | {100 * accuracy:7.2f} "
            f"| {' | '.join(f'{ms:7.2f}' for ms in times)} |"
        )
        most, least = _BOUNDS[form.precision]
        if not (error <= most and cosine >= least and abs(accuracy - expected) <= _POINT):
            failed.append(form.name)
    print()
    return failed


def _print_naflex() -> list[str]:
    """NaFlex logits beside transformers'; returns the names of those outside the bound."""
    from ._deploy_naflex import MOST_ERROR, logit_errors

    failed = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            for name, error in logit_errors(Path(folder)):
                print(f"NaFlex logits beside transformers', {name + ':':27} largest difference {error:.1e}")
                if not error <= MOST_ERROR:
                    failed.append(f"NaFlex, {name}")
        except ImportError as error:
            print(f"NaFlex logits were not compared: {error.name} is not installed (pip install transformers torch).")
    print()
    return failed


def _unit(embeddings: np.ndarray) -> np.ndarray:
    embeddings = embeddings.astype(np.float64)
    return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
