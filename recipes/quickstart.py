"""A whole run on this machine: data, training, evaluation, export, report; about five minutes on two cores.

    make quickstart                                     drawn scenes, evaluated on compositions never trained on
    make quickstart DATA=folder                         own pictures: image files and a JSONL or CSV of captions
    make quickstart ARGS="--steps 200"                  shorter; the same command again goes on, or says it is done
    python -m recipes.quickstart --help

Every setting of the experiment stands in this file; what it is judged by stands in `judgement.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from siglip_tf.storage import write_file

# Two towers of four and two blocks, small enough for two CPU cores. A patch is as large as a place of the scenes'
# 3 x 3 grid. The bias starts near the prior of a batch of 64, log(1 / 63) = -4.1; the paper's -10 is one of 22,000.
MODEL = {
    "image": "Ti/24",
    "image_size": 72,
    "image_width": 128,
    "image_depth": 4,
    "image_mlp_dim": 512,
    "image_heads": 4,
    "text": "Ti",
    "text_length": 24,
    "text_width": 128,
    "text_depth": 2,
    "text_mlp_dim": 512,
    "text_heads": 4,
    "init_bias": -5.0,
}
STEPS = 1200
BATCH = 64
WARMUP = 0.1  # of all steps
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 1e-4
BETA_2 = 0.95  # section 4.7
# Some hundred steps are few for t and b to leave their initial values, which suit long runs.
SCALARS_LEARNING_RATE = 10.0
STEPS_BETWEEN_CHECKPOINTS = 250
PICTURES_ASKED = 4


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = argparse.ArgumentParser(
        prog="python -m recipes.quickstart",
        description="Train a small SigLIP on this machine, evaluate it, export it and write a report. "
        "The same command again goes on where the last one stopped, or says that it is done.",
    )
    arguments.add_argument("--data", metavar="FOLDER", help="own pictures with captions, in place of the drawn scenes")
    arguments.add_argument("--run", type=Path, help="the run's folder (runs/quickstart, or runs/quickstart-FOLDER)")
    arguments.add_argument("--steps", type=int, default=STEPS, help="training steps of the whole run (%(default)s)")
    arguments.add_argument("--batch", type=int, default=BATCH, help="pairs a step (%(default)s)")
    arguments.add_argument("--learning-rate", type=float, default=LEARNING_RATE, help="at its peak (%(default)s)")
    arguments.add_argument("--seed", type=int, default=0, help="of data, weights and order (%(default)s)")
    arguments.add_argument("--fresh", action="store_true", help="delete the run's folder and begin anew")
    return arguments


class _Run:
    """The run's folder and what is said about it."""

    def __init__(self, arguments: argparse.Namespace):
        self.arguments = arguments
        default = "quickstart"
        if arguments.data:
            default += f"-{Path(arguments.data).resolve().name}"
        self.folder: Path = arguments.run or Path("runs") / default
        self._settings_file = self.folder / "settings.json"
        self._figures_file = self.folder / "figures.json"

    @property
    def report(self) -> Path:
        return self.folder / "report.html"

    def begin(self) -> None:
        """Makes the folder, or checks that what it holds is this same run.

        Raises:
            ValueError: it holds another one.
        """
        settings = {
            "data": os.path.abspath(self.arguments.data) if self.arguments.data else "scenes",
            "model": MODEL,
            "batch": self.arguments.batch,
            "learning_rate": self.arguments.learning_rate,
            "seed": self.arguments.seed,
        }
        if self.arguments.fresh and self._settings_file.exists():
            shutil.rmtree(self.folder)
        if self._settings_file.exists():
            before = json.loads(self._settings_file.read_text())
            changed = [name for name in settings if before.get(name) != settings[name]]
            if changed:
                name = changed[0]
                raise ValueError(
                    f"{self.folder} holds a run with another {name} ({before.get(name)}, now {settings[name]}). "
                    "Name another folder by --run, or give --fresh to delete it."
                )
            return
        if self.folder.exists() and any(self.folder.iterdir()):
            raise ValueError(f"{self.folder} is there and is no quickstart's. Name another folder by --run.")
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self._settings_file, settings)

    def finished(self) -> dict[str, Any] | None:
        """The figures, if the run reached its steps and its report is there."""
        if not (self._figures_file.exists() and self.report.exists()):
            return None
        figures = json.loads(self._figures_file.read_text())
        return figures if figures["steps"] == self.arguments.steps else None

    def finish(self, figures: dict[str, Any]) -> None:
        write_json(self._figures_file, figures)


def write_json(path: Path, value: Any) -> None:
    """Writes a value as a JSON file."""
    write_file(path, json.dumps(value, indent=1) + "\n")


class _Clock:
    """Seconds of training, those of earlier processes included; its state goes with the checkpoints."""

    def __init__(self):
        self._before = 0.0
        self._started: float | None = None

    def start(self) -> None:
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        return self._before + (0.0 if self._started is None else time.monotonic() - self._started)

    def get_state(self) -> float:
        return self.seconds

    def set_state(self, state: float) -> None:
        self._before = float(state)


class _Position:
    """The data's position, as a checkpoint keeps it."""

    def __init__(self, data: Any):
        self._data = data
        self.step: Callable[[], int] = lambda: 0

    def get_state(self) -> dict[str, Any]:
        return self._data.state(self.step())

    def set_state(self, state: dict[str, Any]) -> None:
        self._data.restore(state)


def prepare(run: _Run) -> tuple[Any, Any, Any]:
    """Data, tokenizer and model: the task, its training data, the model with its preprocessing."""
    import keras

    import siglip_tf
    from siglip_tf.data import Augmentation, ImagePreprocessing, Preprocessing, Tokenizer
    from siglip_tf.data.pipeline import TrainingData
    from siglip_tf.data.text.training import train_tokenizer
    from siglip_tf.experiments import tasks

    arguments = run.arguments
    keras.utils.set_random_seed(arguments.seed)
    if arguments.data:
        task = tasks.folder(arguments.data)
    else:
        task = tasks.scenes(arguments.seed, image_size=MODEL["image_size"])
    print(f"[1/5] Data: {task.train.name}, evaluated on {task.held_out_name}", flush=True)

    vocabulary = run.folder / "tokenizer.model"
    if not vocabulary.exists():
        write_file(vocabulary, train_tokenizer(task.texts, task.vocabulary, model_type="bpe"))
    tokenizer = Tokenizer.from_file(vocabulary, MODEL["text_length"])
    print(f"      Tokenizer: {tokenizer.vocab_size} pieces, trained on the captions", flush=True)

    model = siglip_tf.SigLIP(**MODEL, vocab_size=tokenizer.vocab_size, seed=arguments.seed)
    model.preprocessing = Preprocessing(ImagePreprocessing(MODEL["image_size"]), tokenizer)
    data = TrainingData(
        task.train,
        model.preprocessing,
        arguments.batch,
        seed=arguments.seed,
        augmentation=Augmentation(crop_area=task.crop_area),
        report=str(run.folder / "bad_records.jsonl"),
    )
    return task, data, model


def fit(run: _Run, data: Any, model: Any) -> float:
    """Trains up to the run's steps by `model.fit`; returns the seconds that took.

    Raises:
        SystemExit: Ctrl-C or SIGTERM, once the state is saved.
    """
    from siglip_tf.optimizers import AdamW, Cosine, ParameterGroup
    from siglip_tf.training import Resume, train

    arguments = run.arguments
    warmup = max(1, round(WARMUP * arguments.steps))
    model.compile(
        AdamW(
            arguments.learning_rate,
            Cosine(arguments.steps, min(warmup, arguments.steps)),
            weight_decay=WEIGHT_DECAY,
            beta_2=BETA_2,
            groups=[ParameterGroup(r"(log_temperature|^[^/]*/?bias)$", SCALARS_LEARNING_RATE)],
        )
    )
    position, clock = _Position(data), _Clock()
    resume = Resume(
        str(run.folder),
        every=STEPS_BETWEEN_CHECKPOINTS,
        states={"data": position, "clock": clock},
        say=lambda text: print(f"      {text}", flush=True),
    )
    position.step = lambda: resume.step
    parameters = sum(int(weight.shape.num_elements()) for weight in model.trainable_weights)
    print(
        f"[2/5] Training: {parameters:,} parameters, {arguments.steps:,} steps of {arguments.batch} pairs", flush=True
    )

    def batches(_: int) -> Any:
        clock.start()
        return data.dataset()

    train(
        model,
        batches,
        steps=arguments.steps,
        global_batch_size=arguments.batch,
        resume=resume,
        log_every=max(1, arguments.steps // 160),
        tensorboard=False,
    )
    return clock.seconds


def export(run: _Run, model: Any, task: Any) -> Path:
    """Writes the checkpoint and the SavedModel, in place of those of a shorter run; returns the version folder."""
    from siglip_tf.export import export_saved_model

    for name in ("checkpoint", "saved_model"):
        shutil.rmtree(run.folder / name, ignore_errors=True)
    model.save_checkpoint(run.folder / "checkpoint")
    return Path(export_saved_model(model, run.folder / "saved_model", templates=task.templates).path)


def ask(run: _Run, saved_model: Path, task: Any, examples: Any) -> list[Any]:
    """Shows held-out pictures to the SavedModel in a process that knows nothing of this package."""
    from siglip_tf.experiments.report import Asked

    count = min(PICTURES_ASKED, len(examples.images))
    if task.labels:
        truths = [task.labels[label] for label in examples.labels[:count]]
        others = [task.labels[(7 * label + 3) % len(task.labels)] for label in examples.labels[:count]]
    else:
        truths, others = ([captions[0] for captions in examples.captions[i : i + count]] for i in (0, count))
    labels = list(dict.fromkeys([*truths, *others]))
    files = []
    (run.folder / "asked").mkdir(exist_ok=True)
    for i, picture in enumerate(examples.images[:count]):
        files.append(run.folder / "asked" / (f"{i}.png" if picture.startswith(b"\x89PNG") else f"{i}.jpg"))
        files[-1].write_bytes(picture)
    script = Path(__file__).with_name("ask_saved_model.py")
    command = [sys.executable, "-I", str(script), str(saved_model), *map(str, files), "--labels", *labels, "--json"]
    quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, env=quiet, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"The exported model did not answer in a process of its own:\n{done.stderr[-2000:]}")
    answer = json.loads(done.stdout.splitlines()[-1])
    if answer["knows_siglip_tf"]:
        raise RuntimeError("The fresh process imported siglip_tf, which it must not need.")
    return [
        Asked(picture, truth, answers[:5])
        for picture, truth, answers in zip(examples.images[:count], truths, answer["answers"], strict=True)
    ]


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    arguments = parser().parse_args(argv)
    run = _Run(arguments)
    again = "make quickstart" if not arguments.data else f"make quickstart DATA={arguments.data}"
    try:
        if arguments.steps < 1 or arguments.batch < 2:
            raise ValueError(f"Expected --steps >= 1 and --batch >= 2. Received: {arguments.steps}, {arguments.batch}")
        if arguments.data and not os.path.exists(arguments.data):
            raise ValueError(f"There is no folder {arguments.data!r} with pictures and captions.")
        run.begin()
        if (figures := run.finished()) is not None:
            print(f"Done already: {figures['steps']:,} steps in {run.folder}.")
            show(figures, run)
            print("More --steps train on; --fresh begins anew.")
            return 0
        whole_run(run)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nStopped. The same command goes on: {again}", file=sys.stderr)
        return 130
    except SystemExit as stop:
        print(f"      The same command goes on: {again}", flush=True)
        return int(stop.code)
    return 0


def whole_run(run: _Run) -> None:
    """All five steps."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    task, data, model = prepare(run)
    seconds = fit(run, data, model)

    from siglip_tf.experiments.judgement import judge

    from .quickstart_report import compose

    print("[3/5] Evaluation", flush=True)
    judgement = judge(model, task, lambda text: print(f"      {text}", flush=True))
    print("[4/5] Export, and a fresh process that asks the SavedModel", flush=True)
    saved_model = export(run, model, task)
    asked = ask(run, saved_model, task, judgement.examples)
    for answer in asked:
        best = answer.answers[0]
        print(f"      {answer.truth}: answered {best['label']} ({best['share']:.0%})", flush=True)
    figures = {
        "steps": run.arguments.steps,
        "pairs": run.arguments.steps * run.arguments.batch,
        "seconds": round(seconds, 1),
        "figures": [{"name": f.name, "value": f.value, "chance": f.chance, "goal": f.goal} for f in judgement.figures],
    }
    compose(run, task, model, judgement, asked, figures).write(run.report)
    run.finish(figures)
    print("[5/5] Report", flush=True)
    show(figures, run)


def show(figures: dict[str, Any], run: _Run) -> None:
    """The figures as a table, and where the report lies."""
    rate = figures["pairs"] / figures["seconds"]
    print(f"      {figures['pairs']:,} pairs in {figures['seconds']:.0f} s, {rate:.0f} images/s")
    for figure in figures["figures"]:
        goal = "" if figure["goal"] is None else f"   goal {figure['goal']:.1%}"
        print(f"      {figure['name']:<44} {figure['value']:7.1%}   chance {figure['chance']:6.2%}{goal}")
    print(f"      {run.report}")


if __name__ == "__main__":
    sys.exit(main())
