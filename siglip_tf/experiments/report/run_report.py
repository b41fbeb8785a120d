"""Ends a run: evaluates it on the held-out part, queries the exported model in a new process, and writes the page."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from ml_collections import ConfigDict

import siglip_tf
from siglip_tf.experiments.held_out import HeldOut
from siglip_tf.experiments.inputs import Prepared
from siglip_tf.experiments.recipe import Recipe
from siglip_tf.experiments.report import advice
from siglip_tf.experiments.report.assessment import Assessment, assess, shown
from siglip_tf.experiments.report.baseline import Baseline
from siglip_tf.experiments.report.page import Asked, Figure, Page
from siglip_tf.experiments.run_folder import RunFolder
from siglip_tf.storage import write_file
from siglip_tf.training.progress import duration_text

_PICTURES_ASKED = 4
_START = "the model before training"
_FAULT_LINES = 1_000_000


def report(
    recipe: Recipe,
    c: ConfigDict,
    folder: RunFolder,
    model: Any,
    prepared: Prepared,
    metrics: Sequence[Mapping[str, Any]],
    run: Mapping[str, Any],
    command: str,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Writes `report.html` into the run's folder.

    Args:
        recipe: the recipe that was trained.
        c: the settings of the run.
        folder: the run's folder, which already holds the checkpoint.
        model: the trained model.
        prepared: the data of the run.
        metrics: the lines of `metrics.jsonl`.
        run: "steps", "pairs", and "seconds" of the run.
        command: the command line.
        say: a function that receives lines of text for the user.

    Returns:
        The results as JSON values.

    Raises:
        ValueError: if the exported model does not answer in another process.
    """
    assessment = None
    asked: list[Asked] = []
    if model.image is None:  # SigLiT trains only a text tower; its final checkpoint holds both towers
        model = siglip_tf.SigLIP.from_checkpoint(folder / "checkpoint", verbose=False) if prepared.finish else model
    held_out = prepared.held_out
    if held_out is not None and model.image is not None:
        say("Evaluation")
        assessment = _assess(c, model, held_out, say)
        if recipe.ask_saved_model:
            say("Export, and a fresh process that asks the exported model")
            asked = _export_and_ask(recipe.ask_saved_model, folder, model, held_out, assessment, say)
    figures = [] if assessment is None else assessment.figures
    page = Page(
        title=f"{recipe.name}: {held_out.title if held_out else c.data or 'a run'}",
        summary=_summary(c, model, run, held_out),
        warning=advice.warning(figures),
        advice=advice.advice(
            c,
            figures,
            metrics,
            run["steps"],
            prepared.examples,
            run["seconds"],
            command,
            "duration" in recipe.may_change,
        ),
        tiles=tiles_of(figures, run),
        figures=figures,
        metrics=metrics,
        asked=asked,
        faults=_faults(folder),
        facts=_facts(c, folder, model, run, command),
        **({} if assessment is None else _pictures(assessment)),
    )
    page.write(folder / "report.html")
    written = {"figures": [dataclasses.asdict(figure) for figure in figures], "warning": page.warning}
    written |= {"advice": list(page.advice), "report": folder / "report.html"}
    show({**run, **written}, say)
    return written


def show(figures: Mapping[str, Any], say: Callable[[str], None]) -> None:
    """Prints the results of a finished run: the warning first, and the report's path last."""
    if figures.get("warning"):
        say(figures["warning"])
    if figures.get("seconds"):
        rate = figures["pairs"] / figures["seconds"]
        say(f"{figures['pairs']:,} pairs in {figures['seconds']:.0f} s, {rate:.0f} images/s")
    for figure in figures.get("figures", ()):
        goal = "" if figure["goal"] is None else f"   goal {figure['goal']:.1%}"
        rivals = "".join(f"   {name} {value:.1%}" for name, value in figure.get("baselines", {}).items())
        say(f"{figure['name']:<44} {figure['value']:7.1%}   chance {figure['chance']:6.2%}{rivals}{goal}")
    for sentence in figures.get("advice", ()):
        say(f"Next: {sentence}")
    if figures.get("report"):
        say(f"Report: {figures['report']}")


def _assess(c: ConfigDict, model: Any, held_out: HeldOut, say: Callable[[str], None]) -> Assessment:
    assessment = assess(model, held_out, say, Baseline(held_out.train))
    if not c.start:
        return assessment
    before = siglip_tf.SigLIP.from_checkpoint(c.start, tokenizer=c.tokenizer, verbose=False)
    if before.image is None or before.text is None or before.preprocessing is None:
        return assessment
    known = {figure.name: figure.value for figure in assess(before, held_out, lambda text: None).figures}
    figures = [
        dataclasses.replace(figure, baselines={**figure.baselines, _START: known[figure.name]})
        if figure.name in known
        else figure
        for figure in assessment.figures
    ]
    return dataclasses.replace(assessment, figures=figures)


def _export_and_ask(
    script: str, folder: RunFolder, model: Any, held_out: HeldOut, assessment: Assessment, say: Callable[[str], None]
) -> list[Asked]:
    """Exports the model, and shows held-out pictures to it in a process that does not import this package."""
    from siglip_tf.export import export_saved_model

    exported = export_saved_model(model, folder / "saved_model", templates=held_out.templates).path
    examples = assessment.examples
    count = min(_PICTURES_ASKED, len(examples.images))
    if held_out.labels:
        truths = [held_out.labels[label] for label in examples.labels[:count]]
        others = [held_out.labels[(7 * label + 3) % len(held_out.labels)] for label in examples.labels[:count]]
    else:
        truths, others = ([captions[0] for captions in examples.captions[i : i + count]] for i in (0, count))
    labels = list(dict.fromkeys([*truths, *others]))
    files = []
    for i, picture in enumerate(examples.images[:count]):
        files.append(folder / f"asked/{i}.{'png' if picture.startswith(bytes([0x89]) + b'PNG') else 'jpg'}")
        write_file(files[-1], picture)
    command = [sys.executable, "-I", script, str(exported), *files, "--labels", *labels, "--json"]
    quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, env=quiet, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"The exported model did not answer in a process of its own:\n{done.stderr[-2000:]}")
    answer = json.loads(done.stdout.splitlines()[-1])
    if answer["knows_siglip_tf"]:
        raise ValueError("The fresh process imported siglip_tf, which it must not need.")
    asked = []
    for picture, truth, answers in zip(examples.images[:count], truths, answer["answers"], strict=True):
        say(f"{truth}: answered {answers[0]['label']} ({answers[0]['share']:.0%})")
        asked.append(Asked(shown(picture), truth, answers[:5]))
    return asked


def _pictures(assessment: Assessment) -> dict[str, Any]:
    names = ("found", "found_note", "mistakes", "mistakes_note")
    return {name: getattr(assessment, name) for name in names}


def _summary(c: ConfigDict, model: Any, run: Mapping[str, Any], held_out: HeldOut | None) -> str:
    how = f"started from {c.start}" if c.start else "trained from scratch"
    asked = f", and asked about {held_out.held_out_name}" if held_out else ""
    return (
        f"A SigLIP of {model.count_params() / 1e6:.1f} million parameters, {how}, on {run['pairs']:,} pairs of picture "
        f"and caption{asked}."
    )


def tiles_of(figures: Sequence[Figure], run: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns (label, value) of the figures at the top of a report: the results, the duration, and the speed."""
    by_name = {figure.name.split(" over ")[0]: figure for figure in reversed(figures)}
    names = {
        "Zero-shot accuracy": "zero-shot accuracy",
        "Image to text R@1": "image to text, R@1",
        "Text to image R@1": "text to image, R@1",
    }
    tiles = [(label, f"{by_name[name].value:.1%}") for name, label in names.items() if name in by_name]
    if run["seconds"]:
        tiles.append(("of training", duration_text(run["seconds"])))
        tiles.append(("images per second", f"{run['pairs'] / run['seconds']:,.0f}"))
    return tiles


def _faults(folder: RunFolder) -> list[tuple[str, int]]:
    """Returns why training skipped records, with the number of records for each cause."""
    counts: dict[str, int] = {}
    for path in tf.io.gfile.glob(folder / "bad_records*.jsonl"):
        with tf.io.gfile.GFile(path) as file:
            for line, _ in zip(file, range(_FAULT_LINES), strict=False):
                try:
                    cause = str(json.loads(line).get("cause", "unknown"))
                except (json.JSONDecodeError, AttributeError):
                    continue
                counts[cause] = counts.get(cause, 0) + 1
    return sorted(counts.items(), key=lambda item: -item[1])


def _facts(c: ConfigDict, folder: RunFolder, model: Any, run: Mapping[str, Any], command: str) -> list[tuple[str, str]]:
    rows = [
        ("Command", command),
        ("Steps", f"{run['steps']:,} of {c.batch} pairs, seed {c.seed}"),
    ]
    if model.image is not None:
        height, width = model.image_size
        rows.append(("Images", f"{height} x {width} pixels, patches of {model.image.patch_size}"))
    versions = (
        f"siglip_tf {siglip_tf.__version__}, TensorFlow {tf.__version__}, Keras {keras.__version__}, "
        f"Python {platform.python_version()}"
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    rows += [
        ("Texts", f"{model.text_length} tokens of {model.vocab_size:,} pieces"),
        ("Machine", f"{platform.machine()}, {cores} cores"),
        ("Versions", versions),
        ("Checkpoint", folder / "checkpoint"),
    ]
    if Path(folder / "saved_model").exists():
        rows.append(("SavedModel", folder / "saved_model"))
    return rows
