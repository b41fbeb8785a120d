"""The quickstart's report: which figures lead it, and the facts of the run at its foot."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

import siglip_tf
from siglip_tf.experiments.judgement import Judgement
from siglip_tf.experiments.report import Asked, Report
from siglip_tf.experiments.tasks import Task
from siglip_tf.training import read_metrics
from siglip_tf.training.progress import duration_text


def compose(run: Any, task: Task, model: Any, judgement: Judgement, asked: list[Asked], figures: dict) -> Report:
    """Puts the page together.

    Args:
        run: the quickstart's run, with its folder and arguments.
        task: what was trained on.
        model: the trained model.
        judgement: its evaluation.
        asked: what the exported model answered.
        figures: steps, pairs and seconds of training.
    """
    by_name = {figure.name.split(" over ")[0]: figure for figure in reversed(judgement.figures)}
    tiles = [
        (label, f"{by_name[name].value:.1%}")
        for name, label in (
            ("Zero-shot accuracy", "zero-shot accuracy"),
            ("Image to text R@1", "image to text, R@1"),
            ("Text to image R@1", "text to image, R@1"),
        )
        if name in by_name
    ]
    tiles += [
        ("of training", duration_text(figures["seconds"])),
        ("images a second", f"{figures['pairs'] / figures['seconds']:,.0f}"),
    ]
    parameters = model.count_params()
    rows, columns = model.image_size
    return Report(
        title=task.title,
        summary=(
            f"A SigLIP of {parameters / 1e6:.1f} million parameters, trained from scratch on {figures['pairs']:,} "
            f"pairs of picture and caption, and asked about {task.held_out_name}."
        ),
        tiles=tiles,
        figures=judgement.figures,
        metrics=read_metrics(str(Path(run.folder) / "metrics.jsonl")),
        found=judgement.found,
        found_note=judgement.found_note,
        asked=asked,
        mistakes=judgement.mistakes,
        mistakes_note=judgement.mistakes_note,
        facts=[
            ("Command", " ".join(["python -m recipes.quickstart", *sys.argv[1:]])),
            ("Steps", f"{figures['steps']:,} of {run.arguments.batch} pairs, seed {run.arguments.seed}"),
            ("Images", f"{rows} x {columns} pixels, patches of {model.image.patch_size}"),
            ("Texts", f"{model.text_length} tokens of {model.vocab_size:,} pieces"),
            (
                "Machine",
                f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores",
            ),
            (
                "Versions",
                f"siglip_tf {siglip_tf.__version__}, TensorFlow {tf.__version__}, Keras {keras.__version__}, "
                f"Python {platform.python_version()}",
            ),
            ("Checkpoint", str(Path(run.folder) / "checkpoint")),
            ("SavedModel", str(Path(run.folder) / "saved_model")),
        ],
    )
