"""Evaluates a checkpoint by zero-shot classification, retrieval, and few-shot probes.

    python -m tools.evaluate CHECKPOINT --tasks TASK [TASK ...] [--output DIR]

CHECKPOINT is any checkpoint that `siglip_tf.SigLIP.from_checkpoint` reads. `--output` writes the results to
DIR/results.json, and a page with examples, confusions, and failures to DIR/report.html. For example:

    python -m tools.evaluate siglip_b16 --tasks zero_shot:folder=birds,templates=photos retrieval:coco=/data/coco
    python -m tools.evaluate siglip_b16 --tasks few_shot:tfds=cifar100 retrieval:xm3600=/data/xm3600 --output results
    python -m tools.evaluate siglip_b16 --tasks zero_shot:tfds=imagenet_a,subset=present,class_names=imagenet.txt

All accelerators of this machine share the work. Several machines share it if TF_CONFIG names them and each runs the
command. The results do not depend on the number of devices.

A task is:
"""

import argparse
import datetime
import json
import os
import sys
import time
from pathlib import Path

# TensorFlow reads this variable when it is imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import siglip_tf
from siglip_tf.distribution import find_strategy
from siglip_tf.evaluation.embed import Embedder
from siglip_tf.evaluation.report import html_report
from siglip_tf.evaluation.results import TaskResult, table
from siglip_tf.evaluation.task_names import GRAMMAR, parse_task
from siglip_tf.evaluation.tasks import Evaluation
from siglip_tf.storage import write_file

from .checkpoint_argument import add_checkpoint, load_model
from .command import command_parser, exit_status
from .progress_line import ProgressLine


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    parser = command_parser("evaluate", __doc__ + "\n" + GRAMMAR)
    add_checkpoint(parser)
    parser.add_argument("--tasks", nargs="+", metavar="TASK", required=True, help="what to measure; see above")
    parser.add_argument("--output", metavar="DIR", type=Path, help="folder for results.json and report.html")
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="images or texts per step (default 64)")
    parser.add_argument("--devices", type=int, metavar="N", help="number of local devices (default: all accelerators)")
    options = parser.parse_args(arguments)
    return exit_status(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    # Do this first, because several workers must connect before anything else runs.
    strategy = find_strategy(options.devices, cpus=True)
    is_chief = strategy.extended.should_save_summary
    tasks = [parse_task(text) for text in options.tasks]
    with strategy.scope():
        model = load_model(options, verbose=is_chief)
    evaluation = Evaluation(Embedder(model, options.batch_size), _Progress() if is_chief else None)
    results = evaluation.run(tasks)
    if not is_chief:
        return
    print("\n" + table(results))
    if options.output is not None:
        _write(options, model, results)


def _write(options: argparse.Namespace, model: siglip_tf.SigLIP, results: list[TaskResult]) -> None:
    about = {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "siglip_tf": siglip_tf.__version__,
        "image size": "x".join(str(side) for side in model.image_size),
        "text length": str(model.text_length),
        "parameters": f"{model.count_params():,}",
    }
    content = {"checkpoint": str(options.checkpoint), **about, "results": [result.to_dict() for result in results]}
    page = html_report(results, f"Evaluation of {options.checkpoint}", about, sigmoid_scores=model.bias is not None)
    for name, text in (("results.json", json.dumps(content, indent=1)), ("report.html", page)):
        write_file(options.output / name, text)
        print(f"Wrote {options.output / name}")


class _Progress:
    """Shows one line with the progress of a set and the time left."""

    def __init__(self):
        self._start = 0.0
        self._line = ProgressLine(log_seconds=0.5)

    def __call__(self, name: str, done: int, total: int) -> None:
        now = time.monotonic()
        if done == 0:
            self._start = now
            return
        last = done >= total
        elapsed = max(now - self._start, 1e-9)
        left = "" if last else f", {elapsed / done * (total - done):.0f} s left"
        self._line.say(f"{name}: {done:,} of {total:,} images, {done / elapsed:.1f} images/s{left}", last=last)


if __name__ == "__main__":
    sys.exit(main())
