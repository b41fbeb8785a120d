"""Fits a checkpoint's probabilities to a labeled sample: a threshold for yes or no, and what a probability means.

    python -m tools.calibrate CHECKPOINT --sample TASK (--precision P | --recall R) [--scale] [--per-label]
                              [--write DIR] [--output DIR]

SigLIP's probabilities are small, because each text was trained together with thousands of wrong ones. This command
finds a threshold with a sample of pictures whose labels or captions are known. With --precision 0.9, nine of ten yes
answers are right. With --recall 0.9, nine of ten matching pairs get a yes. --scale also fits the temperature and the
bias, so that a probability of p means that a fraction p of such pairs match. The ranking does not change. --write
stores the result in a checkpoint. The `classify` function of its SavedModel then also returns `matches`. For example:

    python -m tools.calibrate siglip_b16 --sample zero_shot:folder=birds,templates=photos --precision 0.95 --scale \\
        --write siglip_b16_birds --output runs/calibration
    python -m tools.calibrate siglip_b16 --sample retrieval:source=pairs.csv --recall 0.9

Every picture forms a pair with every class, or with every caption of the sample. TASK has the same form as for
`python -m tools.evaluate`. Use the same templates as the served model, because other texts have other scores.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# TensorFlow reads this variable when it is imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np

import siglip_tf
from siglip_tf import checkpoints, pages, storage
from siglip_tf.distribution import find_strategy
from siglip_tf.evaluation.calibration import (
    Curve,
    Threshold,
    calibration_of,
    fit_scale_and_bias,
    fit_threshold,
    pairs_of,
    reliability,
)
from siglip_tf.evaluation.embed import Embedder
from siglip_tf.evaluation.task_names import parse_task
from siglip_tf.evaluation.tasks import Evaluation, RetrievalTask, ZeroShotTask
from siglip_tf.evaluation.zero_shot import class_embeddings

from .calibrate_page import page_values
from .checkpoint_argument import add_checkpoint, load_model
from .command import command_parser, exit_status

_MOST_PAIRS = 50_000_000  # 0.4 GB per copy in float64


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    parser = command_parser("calibrate", __doc__)
    add_checkpoint(parser)
    parser.add_argument("--sample", metavar="TASK", required=True, help="zero_shot:... or retrieval:..., see above")
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument(
        "--precision", type=float, metavar="P", help="wanted share of right answers among the yes answers"
    )
    asked.add_argument("--recall", type=float, metavar="R", help="wanted share of matching pairs that get a yes")
    parser.add_argument("--scale", action="store_true", help="also fit temperature and bias")
    parser.add_argument(
        "--per-label", action="store_true", help="also fit a threshold for each class with enough pairs"
    )
    parser.add_argument(
        "--write", metavar="DIR", help="folder to write the calibrated checkpoint to, in this project's format"
    )
    parser.add_argument("--output", metavar="DIR", type=Path, help="folder for calibration.json and calibration.html")
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="images or texts per step (default 64)")
    options = parser.parse_args(arguments)
    return exit_status(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    asked = {"precision": options.precision} if options.recall is None else {"recall": options.recall}
    if not 0 < next(iter(asked.values())) <= 1:
        raise ValueError(f"Expected a precision or recall in (0, 1]. Received: {next(iter(asked.values()))}.")
    task = parse_task(options.sample)
    if not isinstance(task, ZeroShotTask | RetrievalTask):
        raise ValueError(f"Expected a sample of kind zero_shot or retrieval. Received: {options.sample!r}.")
    if options.per_label and not isinstance(task, ZeroShotTask):
        raise ValueError("Expected --per-label with a zero_shot sample, whose texts are classes.")
    with find_strategy(1, cpus=True).scope():
        model = load_model(options)
    if options.scale and model.bias is None:
        raise ValueError("This model has no bias (it was trained by softmax), so --scale cannot fit one.")
    logits, labels, names, notes = _scores(Evaluation(Embedder(model, options.batch_size)), task)
    pair_logits, matches = pairs_of(logits, labels)
    before = reliability(_sigmoid(pair_logits), matches)
    scale, bias = fit_scale_and_bias(pair_logits, matches) if options.scale else (1.0, 0.0)
    probabilities = _sigmoid(scale * pair_logits + bias)
    threshold = fit_threshold(probabilities, matches, **asked)
    by_label = _by_label(probabilities.reshape(logits.shape), matches.reshape(logits.shape), names, asked, options)
    after = reliability(probabilities, matches)
    calibration = calibration_of(threshold, asked, len(matches), by_label)
    _say(notes, before, after, threshold, asked, int(matches.sum()), len(matches), (scale, bias), by_label)
    if options.scale:
        model.log_temperature.assign_add(np.log(scale))
        model.bias.assign(scale * float(np.asarray(model.bias)) + bias)
    model.calibration = calibration
    if options.output is not None:
        _write_report(options, calibration, before, after, (scale, bias))
    if options.write is not None:
        checkpoints.write(options.write, model.to_checkpoint())
        print(f"Wrote {options.write}")


def _scores(evaluation: Evaluation, task: ZeroShotTask | RetrievalTask):
    """Returns logits (images, texts), the right texts of each image, the texts' names, and notes."""
    names: Sequence[str]
    labels: Any
    if isinstance(task, ZeroShotTask):
        evaluation.embedder.require_tokenizer()
        texts = class_embeddings(evaluation.embedder.texts, task.images.class_names, task.templates)
        images, vectors = evaluation.images(task.images)
        labels, names = images.labels.reshape(len(images), -1), images.class_names
    else:
        if task.images.captions is None:
            raise ValueError(f"{task.images.name} has captions in several languages: name a sample with one.")
        images, vectors = evaluation.images(task.images)
        names = sorted({caption for several in images.captions for caption in several})
        number = {caption: i for i, caption in enumerate(names)}
        labels = [[number[caption] for caption in several] for several in images.captions]
        texts = evaluation.embedder.texts(names)
    if len(vectors) * len(texts) > _MOST_PAIRS:
        raise ValueError(
            f"The sample makes {len(vectors) * len(texts):,} pairs; expected at most {_MOST_PAIRS:,}. Add limit=N."
        )
    logits = evaluation.temperature * vectors.astype(np.float64) @ texts.T.astype(np.float64) + evaluation.bias
    return logits, labels, names, images.notes


def _by_label(probabilities, matches, names, asked, options) -> dict[str, Threshold]:
    found = {}
    if options.per_label:
        for i, name in enumerate(names):
            column = matches[:, i]
            if 10 <= column.sum() < len(column):  # fewer matches would fit noise
                try:
                    found[name] = fit_threshold(probabilities[:, i], column, **asked)
                except ValueError:  # this class does not reach the precision, so the common threshold applies
                    continue
    return found


def _say(notes, before: Curve, after: Curve, threshold: Threshold, asked, right, pairs, fitted, by_label) -> None:
    print(f"\n{pairs:,} pairs, {right:,} of them match")
    for note in notes:
        print(f"note: {note}")
    if fitted != (1.0, 0.0):
        print(f"scale {fitted[0]:.4g} and bias {fitted[1]:.4g} on the logits")
    print(f"expected calibration error: {before.error:.5f} before, {after.error:.5f} after")
    print(
        f"threshold {threshold.value:.4g} for {', '.join(f'{name} {value:g}' for name, value in asked.items())}: "
        f"precision {threshold.precision:.4f}, recall {threshold.recall:.4f}"
    )
    if by_label:
        print(f"thresholds of their own: {len(by_label)} labels")


def _write_report(options, calibration, before: Curve, after: Curve, fitted) -> None:
    options.output.mkdir(parents=True, exist_ok=True)
    figures = {
        "checkpoint": str(options.checkpoint),
        "sample": options.sample,
        "siglip_tf": siglip_tf.__version__,
        "scale": fitted[0],
        "bias": fitted[1],
        "calibration_error": {"before": before.error, "after": after.error},
        **calibration,
    }
    storage.write_file(options.output / "calibration.json", json.dumps(figures, indent=1, ensure_ascii=False))
    page = pages.render("calibrate.html", **page_values(figures, before, after))
    storage.write_file(options.output / "calibration.html", page)
    for name in ("calibration.json", "calibration.html"):
        print(f"Wrote {options.output / name}")


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0.0, -x))


if __name__ == "__main__":
    sys.exit(main())
