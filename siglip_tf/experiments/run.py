"""What every recipe's command does: read the settings, find the strategy, plan or train, go on after any interruption.

A recipe module holds the experiment, see `siglip_tf.experiments.recipe`. This file holds what all of them share.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from siglip_tf.experiments import config as settings_module
from siglip_tf.experiments.recipe import Recipe
from siglip_tf.storage import write_file

# What may differ when a run is gone on with.
_MAY_CHANGE = ("checkpoint_every", "keep_last", "keep_every", "log_every", "on_fault", "spike", "bad_record_limit")
_MAY_CHANGE += ("data", "tokenizer", "start", "tower", "topology", "deterministic")
_EMBEDDED_PICTURES = 256


def parser(recipe: Recipe) -> argparse.ArgumentParser:
    """The command line of a recipe."""
    arguments = argparse.ArgumentParser(
        prog=recipe.command, description=recipe.about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = list(recipe.setups)
    arguments.add_argument(
        "setup", nargs="?", choices=names, default=names[0], metavar="SETUP", help=f"{', '.join(names)} ({names[0]})"
    )
    for key, text in recipe.options.items():
        arguments.add_argument(f"--{key}", help=text)
    arguments.add_argument("--run", help=f"the run's folder, local or gs:// (runs/{recipe.name}-SETUP)")
    arguments.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="another value of a setting; see --show"
    )
    arguments.add_argument("--embedded", action="store_true", help="a tiny run on the embedded data, on any machine")
    arguments.add_argument("--dry-run", action="store_true", help="build everything, print the plan, and stop")
    arguments.add_argument("--tpu-report", action="store_true", help="with --dry-run: compile for the TPU, minutes")
    arguments.add_argument("--show", action="store_true", help="print all settings, and stop")
    arguments.add_argument("--until", type=int, metavar="STEP", help="stop there; the same command goes on later")
    return arguments


def main(recipe: Recipe, argv: Sequence[str] | None = None) -> int:
    """Runs a recipe's command; returns its exit code."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    arguments = parser(recipe).parse_args(argv)
    try:
        c = chosen_settings(recipe, arguments)
        if arguments.show:
            print("\n".join(f"{key}={value}" for key, value in settings_module.flat(c).items()))
        elif arguments.dry_run or arguments.tpu_report:
            print(_plan(recipe, arguments, c))
        else:
            run(recipe, arguments, c)
    except (ValueError, ImportError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except SystemExit as stop:
        print("The same command goes on.", flush=True)
        return int(stop.code)
    return 0


def chosen_settings(recipe: Recipe, arguments: argparse.Namespace) -> ConfigDict:
    """The setup's settings, made tiny by `--embedded`, with the command line's values on top."""
    c = recipe.settings(arguments.setup)
    if arguments.embedded:
        recipe.embedded(c)
    for key in recipe.options:
        if (value := getattr(arguments, key)) is not None:
            settings_module.set_value(c, key, value)
    settings_module.override(c, arguments.set)
    return c


def run_folder(recipe: Recipe, arguments: argparse.Namespace) -> str:
    """Where the run lives."""
    return arguments.run or f"runs/{recipe.name}-{'embedded' if arguments.embedded else arguments.setup}"


def _plan(recipe: Recipe, arguments: argparse.Namespace, c: ConfigDict) -> str:
    from siglip_tf.experiments.build import open_data
    from siglip_tf.experiments.plan import plan

    words = [recipe.command, arguments.setup]
    words += ["--embedded"] if arguments.embedded else []
    words += [f"--{key} {getattr(arguments, key)}" for key in recipe.options if getattr(arguments, key)]
    words += [f"--set {text!r}" if " " in text else f"--set {text}" for text in arguments.set]
    if recipe.adopt is not None:
        recipe.adopt(c)
    size = (recipe.size or (lambda c: open_data(c).size))(c) if c.data else None
    return plan(" ".join(words), c, size, arguments.tpu_report)


def run(recipe: Recipe, arguments: argparse.Namespace, c: ConfigDict) -> None:
    """Trains from wherever the run stands to its end, and writes its checkpoint."""
    import keras
    import tensorflow as tf

    from siglip_tf import processor
    from siglip_tf.distribution import describe, find_strategy
    from siglip_tf.experiments.build import build_model, parameter_count, total_steps
    from siglip_tf.training import Resume, Watch, train
    from siglip_tf.training.workers import this_worker

    strategy = find_strategy()
    folder = run_folder(recipe, arguments)
    keras.utils.set_random_seed(c.seed)
    if c.deterministic:
        tf.config.experimental.enable_op_determinism()
    chief = this_worker(strategy).is_chief
    say = _say if chief else lambda text: None
    _claim(folder, settings_module.flat(c), chief)
    prepared = recipe.prepare(c, folder, arguments.embedded)
    steps = total_steps(c, prepared.examples)
    with strategy.scope():
        model = build_model(c, steps)
    model.preprocessing = prepared.preprocessing
    trained = parameter_count(model.trainable_weights)
    if processor.notice():
        say(processor.notice())
    say(f"{describe(strategy)}: {parameter_count(model.weights):,} parameters, {trained:,} trained")
    say(f"{steps:,} steps of {c.batch:,} pairs; {folder}")

    weights = prepared.weights
    resume = Resume(
        folder,
        every=min(c.checkpoint_every, steps),
        keep_last=c.keep_last,
        keep_every=c.keep_every,
        initial_weights=None if weights is None else _Start(weights, c.start or c.tower or "a checkpoint"),
        say=say,
    )
    until = steps if arguments.until is None else min(arguments.until, steps)
    spikes = {} if c.spike is None else {"gradient_norm": c.spike}
    looks = c.log_every if isinstance(strategy, tf.distribute.TPUStrategy) else 1
    watch = Watch(resume, c.on_fault, spikes=spikes, every=looks, say=say)
    reached = train(
        model,
        prepared.data,
        steps=until,
        global_batch_size=c.batch,
        resume=resume,
        watch=watch,
        log_every=c.log_every,
    )
    if reached < steps:
        say(f"Stopped at step {reached:,} of {steps:,}. The same command goes on.")
        return
    if chief:
        finish = prepared.finish or (lambda model, path: model.save_checkpoint(path))
        finish(model, f"{folder}/checkpoint")
    say(f"Done: {folder}/checkpoint; metrics in {folder}/metrics.jsonl and {folder}/tensorboard.")
    if arguments.embedded and chief:
        say(embedded_recall(f"{folder}/checkpoint", c))
    else:
        say(f"Evaluate it: python -m tools.evaluate {folder}/checkpoint --help")


class _Start:
    """Puts a checkpoint's weights into the model, and leaves the others at their initial values."""

    def __init__(self, weights: Mapping[str, Any], source: str):
        self._weights, self._source = weights, source

    def __call__(self, model: Any) -> None:
        own = model.named_weights()
        fresh = {name: variable.numpy() for name, variable in own.items() if name not in self._weights}
        model.assign_weights({**fresh, **self._weights})

    def __str__(self) -> str:
        return f"{len(self._weights)} of {self._source}"


def embedded_recall(checkpoint: str, c: ConfigDict) -> str:
    """How well the checkpoint finds captions of pictures that it was not trained on, in one line."""
    import tensorflow as tf

    import siglip_tf
    from siglip_tf.evaluation import Embedder, retrieval
    from siglip_tf.experiments.build import scenes

    model = siglip_tf.SigLIP.from_checkpoint(checkpoint, verbose=False)
    source = scenes(c, "validation", _EMBEDDED_PICTURES)
    embedder = Embedder(model, 64)
    images = embedder.images(tf.data.Dataset.range(source.size).map(source.read))
    texts = embedder.texts([source.texts(i)[0] for i in range(source.size)])
    found = retrieval(images, texts, recall_at=(1, 10))
    chance = 10 / source.size
    return (
        f"On {source.size} other scenes: image to text R@10 {found.image_to_text[10]:.1%}, text to image R@10 "
        f"{found.text_to_image[10]:.1%} (chance {chance:.1%})"
    )


def _say(text: str) -> None:
    print(text, flush=True)


def _claim(folder: str, values: Mapping[str, Any], chief: bool) -> None:
    """Notes the run's settings in its folder, or checks that it holds this same run.

    Raises:
        ValueError: it holds another one.
    """
    import tensorflow as tf

    path = f"{folder}/settings.json"
    values = json.loads(json.dumps(values))
    if tf.io.gfile.exists(path):
        with tf.io.gfile.GFile(path) as file:
            before = json.loads(file.read())
        changed = [key for key in values if before.get(key) != values[key] and key not in _MAY_CHANGE]
        if changed:
            key = changed[0]
            raise ValueError(
                f"{folder} holds a run with another {key} ({before.get(key)}, now {values[key]}). Name another folder "
                "by --run, or delete that one."
            )
        return
    if chief:
        write_file(path, json.dumps(values, indent=1) + "\n")
