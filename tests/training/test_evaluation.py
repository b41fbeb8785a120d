"""Evaluation while training: figures everywhere, the best checkpoint kept, early stopping, exact resume."""

import json
import random
import signal

import keras
import numpy as np
import pytest
import tensorflow as tf

import siglip_tf
from siglip_tf.evaluation.results import TaskResult
from siglip_tf.evaluation.tasks import Task
from siglip_tf.training import PeriodicEvaluation, Resume, read_metrics, train
from siglip_tf.training import evaluation as evaluation_module
from siglip_tf.training.evaluation import resolve_metric
from tests.training.small_run import (
    BATCH,
    WithoutTowers,
    batches,
    evaluated_siglip,
    make_model,
    make_siglip,
    pairs,
    weights,
)


class Told(Task):
    """A task with figures that the test chooses, by evaluation; an exception among them is raised."""

    name = "told"
    metric_names = ("score", "loss")

    def __init__(self, *values):
        self.values = list(values)
        self.asked = 0

    def run(self, evaluation):
        value = self.values[min(self.asked, len(self.values) - 1)]
        self.asked += 1
        random.random()
        np.random.rand()
        if isinstance(value, BaseException):
            raise value
        return TaskResult(self.name, "told", 1, {"score": value, "loss": -value}, {})


@pytest.fixture
def plain_keras(monkeypatch):
    """Lets a plain Keras model, which compiles in no time, be evaluated."""
    monkeypatch.setattr(evaluation_module, "Embedder", WithoutTowers)
    monkeypatch.setattr(evaluation_module, "Evaluation", WithoutTowers.Evaluation)


def run(directory, task, steps=8, every=2, said=None, model=None, data=batches, callbacks=(), **options):
    model = model or make_model()
    say = said.append if said is not None else lambda text: None
    evaluation = PeriodicEvaluation([task], every, say=say, **options)
    resume = Resume(str(directory), every=3, say=say)
    train(
        model,
        data,
        steps=steps,
        global_batch_size=BATCH,
        resume=resume,
        evaluation=evaluation,
        log_every=3,
        progress=False,
        callbacks=callbacks,
    )
    return model, evaluation


@pytest.mark.slow
def test_figures_and_the_best_checkpoint(tmp_path):
    said, seen = [], {}

    class Look(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if "told/score" in logs:
                seen[batch + 1] = logs["told/score"]

    model, evaluation = run(
        tmp_path, Told(0.1, 0.2, 0.5, 0.3, 0.5), said=said, model=evaluated_siglip(), data=pairs, callbacks=[Look()]
    )
    assert seen == {2: 0.2, 4: 0.5, 6: 0.3, 8: 0.5}
    lines = read_metrics(str(tmp_path / "metrics.jsonl"))
    assert [line["step"] for line in lines] == [0, 2, 3, 4, 6, 8]
    assert [line.get("told/score") for line in lines] == [0.1, 0.2, None, 0.5, 0.3, 0.5]
    assert all("loss" in line for line in lines[1:])
    (events,) = (tmp_path / "tensorboard").iterdir()
    found = [tf.compat.v1.Event.FromString(raw.numpy()) for raw in tf.data.TFRecordDataset(str(events))]
    shown = {e.step: float(tf.make_ndarray(v.tensor)) for e in found for v in e.summary.value if v.tag == "told/score"}
    assert shown == {0: pytest.approx(0.1), 2: pytest.approx(0.2), 4: 0.5, 6: pytest.approx(0.3), 8: 0.5}

    assert (evaluation.best_step, evaluation.best_value) == (4, 0.5)  # a tie keeps the first
    assert evaluation.best_path == str(tmp_path / "best" / "step_000000004")
    assert sorted(p.name for p in (tmp_path / "best").iterdir()) == ["best.json", "step_000000004"]
    named = json.loads((tmp_path / "best" / "best.json").read_text())
    assert named == {"metric": "told/score", "mode": "max", "value": 0.5, "step": 4, "folder": "step_000000004"}
    best = siglip_tf.SigLIP.from_checkpoint(evaluation.best_path, verbose=False)
    assert not np.array_equal(best.text.trainable_variables[0], model.text.trainable_variables[0])
    assert said[:2] == ["step 0: told/score 0.1, the best so far.", "step 2: told/score 0.2, the best so far."]
    assert "step 6: told/score 0.3; the best is 0.5 at step 4." in said
    assert evaluation.summary() == "told/score 0.5 (best 0.5)"


def test_an_evaluation_changes_no_bit_of_training(tmp_path, plain_keras):
    model, _ = run(tmp_path / "evaluated", Told(0.5), steps=4)
    plain = make_model()
    train(plain, batches, steps=4, global_batch_size=BATCH, resume=Resume(str(tmp_path / "plain")), progress=False)
    for mine, theirs in zip(weights(model), weights(plain), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_training_stops_when_nothing_gets_better_and_stays_stopped(tmp_path, plain_keras):
    said = []
    task = Told(0.1, 0.9, 0.2, float("nan"), 0.9)
    _, evaluation = run(tmp_path, task, steps=40, patience=2, said=said)
    assert evaluation.stopped and evaluation.best_step == 2
    assert (
        f"Stopped at step 6: told/score did not get better in 2 evaluations. The best checkpoint is {tmp_path}"
        in said[-1]
    )
    asked = task.asked
    _, evaluation = run(tmp_path, task, steps=40, patience=2, said=said)
    assert evaluation.stopped and evaluation.best_step == 2 and task.asked == asked
    assert "Training stopped early at step 6. The best checkpoint is" in said[-1]


def test_a_failing_evaluation_is_counted_and_training_continues(tmp_path, plain_keras):
    said = []
    task = Told(0.1, ValueError("the pictures are gone"), 0.3, RuntimeError("again"), 0.2)
    model, evaluation = run(tmp_path, task, said=said)
    assert int(model.optimizer.iterations) == 8 and evaluation.failures == 2 and evaluation.best_step == 4
    failed = [text for text in said if "failed" in text]
    assert failed[0] == (
        "The evaluation at step 2 failed (1 failed so far). Training continues. ValueError: the pictures are gone"
    )
    lines = read_metrics(str(tmp_path / "metrics.jsonl"))
    assert [line["evaluation_failures"] for line in lines if "evaluation_failures" in line] == [1, 2]


def test_a_run_in_parts_keeps_the_same_best_checkpoint(tmp_path, plain_keras):
    """The second process evaluates what the first did not come to, and knows the best of both."""
    values = {0: 0.1, 2: 0.2, 4: 0.6, 6: 0.3, 8: 0.5}

    class ByStep(Told):
        def run(self, evaluation):
            self.values = [values[int(evaluation.embedder.model.optimizer.iterations)]]
            return super().run(evaluation)

    whole, _ = run(tmp_path / "whole", ByStep())
    for steps in (5, 7, 8):
        parts, evaluation = run(tmp_path / "parts", ByStep(), steps=steps, last_step=8)
    for mine, theirs in zip(weights(parts), weights(whole), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert evaluation.best_step == 4
    best = []
    for name in ("whole", "parts"):
        assert sorted(p.name for p in (tmp_path / name / "best").iterdir()) == ["best.json", "step_000000004"]
        best.append(make_model())
        best[-1].optimizer.build(best[-1].trainable_variables)
        best[-1].load_weights(tmp_path / name / "best" / "step_000000004" / "model.weights.h5")
    for mine, theirs in zip(best[0].weights, best[1].weights, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert (tmp_path / "whole/best/best.json").read_bytes() == (tmp_path / "parts/best/best.json").read_bytes()
    figures = [
        [(line["step"], line.get("told/score")) for line in read_metrics(str(tmp_path / name / "metrics.jsonl"))]
        for name in ("whole", "parts")
    ]
    assert figures[0] == figures[1]
    # Another metric starts its choice anew.
    said = []
    _, evaluation = run(tmp_path / "parts", Told(0.4), steps=10, best="loss", said=said)
    assert "The best checkpoint is now chosen by told/loss instead of told/score: it starts anew." in said
    assert evaluation.mode == "min" and evaluation.best_value == -0.4


def test_a_signal_during_an_evaluation_ends_it_and_the_next_process_repeats_it(tmp_path, plain_keras):
    class Interrupted(Told):
        def run(self, evaluation):
            if self.asked == 1:
                signal.raise_signal(signal.SIGTERM)
                evaluation.progress("told", 0, 1)
            return super().run(evaluation)

    task = Interrupted(0.1, 0.2, 0.3, 0.4, 0.5)
    with pytest.raises(SystemExit) as stopped:
        run(tmp_path, task)
    assert stopped.value.code == 128 + signal.SIGTERM and task.asked == 1
    task = Told(0.2, 0.3, 0.4, 0.5)
    _, evaluation = run(tmp_path, task)
    assert task.asked == 4 and evaluation.best_step == 8
    lines = read_metrics(str(tmp_path / "metrics.jsonl"))
    assert [line["step"] for line in lines if "told/score" in line] == [0, 2, 4, 6, 8]


def test_evaluation_may_begin_in_the_midst_of_a_run(tmp_path, plain_keras):
    resume = Resume(str(tmp_path), say=lambda text: None)
    train(make_model(), batches, steps=3, global_batch_size=BATCH, resume=resume, progress=False)
    _, evaluation = run(tmp_path, Told(0.5, 0.4), steps=4)
    assert evaluation.best_step == 3  # measured before its first step


def test_what_cannot_be_is_refused_before_training(tmp_path):
    task = Told(0.5)
    cases = [
        ({"tasks": [], "every": 1}, "at least one task"),
        ({"tasks": [task, task], "every": 1}, "'told' more than once"),
        ({"tasks": [task], "every": 0}, "every=0"),
        ({"tasks": [task], "every": 2.5}, r"every=2\.5"),
        ({"tasks": [task], "every": 1, "patience": 0}, "patience=0"),
        ({"tasks": [task], "every": 1, "mode": "most"}, "mode='most'"),
        ({"tasks": [task], "every": 1, "best": "top1"}, r"no metric 'top1'.*There are: \['told/score', 'told/loss'\]"),
        ({"tasks": ["zero_shot:nothing=x"], "every": 1}, "zero_shot:folder"),
    ]
    for arguments, words in cases:
        with pytest.raises(ValueError, match=words):
            PeriodicEvaluation(**arguments)
    with pytest.raises(ValueError, match=r"2 metrics \(a/top1, b/top1\) for 'top1'"):
        resolve_metric("top1", ["a/top1", "b/top1"])
    assert resolve_metric("b/top1", ["a/top1", "b/top1"]) == "b/top1"
    with pytest.raises(ValueError, match="no preprocessing"):
        run(tmp_path, task, model=make_siglip(), data=pairs)
    assert not (tmp_path / "checkpoints").exists()
