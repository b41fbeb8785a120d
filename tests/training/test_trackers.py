"""Weights & Biases and MLflow get a run's metrics where they are installed, and cannot end it."""

import sys
import types

import pytest

from siglip_tf.training.trackers import tracker_callbacks

FOUND = types.SimpleNamespace(figures={"told/score": 0.5}, figures_step=4)


def fake_wandb(record):
    def init(**options):
        record.append(("init", options))
        return types.SimpleNamespace(
            log=lambda metrics, step: record.append((step, metrics)), finish=lambda: record.append("finish")
        )

    return types.SimpleNamespace(init=init)


def fake_mlflow(record, earlier=()):
    return types.SimpleNamespace(
        search_runs=lambda **options: list(earlier),
        start_run=lambda **options: record.append(("start", options)),
        log_params=lambda params: record.append(("params", params)),
        log_metrics=lambda metrics, step: record.append((step, metrics)),
        end_run=lambda: record.append("finish"),
    )


def drive(names, **options):
    steps = iter([0, 1, 2, 3, 4, 5])
    (callback,) = tracker_callbacks(
        names, "runs/birds", {"batch": 8}, lambda: now[0], every=2, evaluation=FOUND, **options
    )
    now = [next(steps)]
    callback.on_train_begin()
    for now[0] in steps:
        callback.on_train_batch_end(now[0] - 1, {"loss": float(now[0]), "R@1": 0.1, "norm": float("nan")})
    callback.on_train_end()


def test_both_trackers(monkeypatch):
    record = []
    monkeypatch.setitem(sys.modules, "wandb", fake_wandb(record))
    drive(["wandb"])
    assert record == [
        ("init", {"id": "runs-birds", "name": "birds", "config": {"batch": 8}, "resume": "allow"}),
        (2, {"loss": 2.0, "R@1": 0.1}),
        (4, {"loss": 4.0, "R@1": 0.1, "told/score": 0.5}),
        "finish",
    ]
    record.clear()
    monkeypatch.setitem(sys.modules, "mlflow", fake_mlflow(record))
    drive(["mlflow"])
    assert record == [
        ("start", {"run_name": "birds", "tags": {"siglip_tf_run": "runs-birds"}}),
        ("params", {"batch": "8"}),
        (2, {"loss": 2.0, "R_at_1": 0.1}),
        (4, {"loss": 4.0, "R_at_1": 0.1, "told/score": 0.5}),
        "finish",
    ]
    record.clear()
    before = types.SimpleNamespace(info=types.SimpleNamespace(run_id="abc"))
    monkeypatch.setitem(sys.modules, "mlflow", fake_mlflow(record, [before]))
    drive(["mlflow"])
    assert record[0] == ("start", {"run_id": "abc"}) and record[1][0] == 2


def test_a_tracker_that_fails_is_left_out(monkeypatch):
    record, said = [], []
    wandb = fake_wandb(record)
    run = wandb.init()

    def fails(metrics, step):
        record.append(step)
        raise ConnectionError("no route")

    run.log = fails
    wandb.init = lambda **options: run
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    drive(["wandb"], say=said.append)
    assert record[1:] == [2] and said == ["The tracker failed and is left out from here on. ConnectionError: no route"]


def test_trackers_that_are_not_there(monkeypatch):
    assert tracker_callbacks([], "runs/birds", {}, lambda: 0) == []
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ImportError, match=r"mlflow is not installed. Install it \(pip install mlflow\)"):
        tracker_callbacks(["mlflow"], "runs/birds", {}, lambda: 0)
    with pytest.raises(ValueError, match=r"\('wandb', 'mlflow'\).*'comet'"):
        tracker_callbacks(["comet"], "runs/birds", {}, lambda: 0)
