"""The progress line, the figures behind it, and the metrics on disk."""

import io
import json

import keras
import pytest
import tensorflow as tf

from siglip_tf.training import Diagnostics, ProgressLine, Resume, Speed, read_metrics, train
from siglip_tf.training.metrics_file import MetricsFile
from siglip_tf.training.progress import duration_text
from tests.object_store import ObjectStore
from tests.training.small_run import BATCH, STEPS, batches, make_model


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def test_speed_counts_what_came_after_the_first_step():
    clock = Clock()
    speed = Speed(global_batch_size=256, chips=4, bound=1024.0, clock=clock)
    assert speed.figures(10) == {}
    speed.tick(1)  # compilation lies before it
    for step in range(2, 12):
        clock.now += 0.5
        speed.tick(step)
    assert speed.figures(steps_left=100) == {
        "images_per_second": 512.0,
        "images_per_second_per_chip": 128.0,
        "share_of_bound": 0.5,
        "seconds_left": 50.0,
    }


def test_speed_is_that_of_the_last_minute():
    clock = Clock()
    speed = Speed(global_batch_size=10, clock=clock)
    for step, seconds in enumerate([10.0] * 20 + [1.0] * 100):
        clock.now += seconds
        speed.tick(step)
    assert speed.figures()["images_per_second"] == pytest.approx(10.0)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.6, "1 min"), (95, "1 min 35 s"), (11520, "3 h 12 min"), (370800, "4 d 7 h"), (7200, "2 h")],
)
def test_durations_read_well(seconds, text):
    assert duration_text(seconds) == text


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_progress_line():
    clock = Clock()
    speed = Speed(global_batch_size=2048, chips=4, bound=10_000.0, clock=clock)
    progress = ProgressLine(65_000, speed, lambda: 1200, stream=Terminal())
    speed.tick(1199)
    clock.now += 0.5
    speed.tick(1200)
    line = progress.line({"loss": 3.2141, "temperature": 12.13, "bias": -9.874, "gradient_norm": 0.4321, "other": 1.0})
    assert line == (
        "step 1,200/65,000  1.8 %  loss 3.21  t 12.1  b -9.87  |g| 0.432  4,096 images/s (1,024 a chip)  "
        "41 % of bound  8 h 51 min left"
    )


@pytest.mark.parametrize("stream", [Terminal(), io.StringIO()], ids=["terminal", "file"])
def test_progress_of_a_run(stream):
    speed = Speed(global_batch_size=BATCH)
    done = [0]

    class Count(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            done[0] += 1
            speed.tick(done[0])

    progress = ProgressLine(6, speed, lambda: done[0], stream=stream)
    make_model().fit(batches(0), steps_per_epoch=6, verbose=0, callbacks=[Count(), progress])
    text = stream.getvalue()
    assert text.lstrip("\r").startswith("step 0/6  building the first step")
    assert "step 1/6" in text and "step 6/6  100.0 %" in text and text.endswith("\n")
    assert ("\r" in text) == stream.isatty()


def test_metrics_on_disk(tmp_path):
    resume = Resume(str(tmp_path), every=100)
    train(
        make_model(),
        batches,
        steps=STEPS,
        global_batch_size=BATCH,
        resume=resume,
        log_every=10,
        progress=False,
        bound=1e9,
    )
    lines = read_metrics(str(tmp_path / "metrics.jsonl"))
    assert [line["step"] for line in lines] == [10, 20, 30, 40]
    assert {"loss", "learning_rate", "schedule", "examples", "images_per_second", "share_of_bound"} <= set(lines[1])
    assert lines[-1]["examples"] == STEPS * BATCH and lines[-1]["seconds_left"] == 0
    assert lines[-1]["schedule"] == pytest.approx(0.0, abs=1e-6)

    (events,) = (tmp_path / "tensorboard").iterdir()
    seen = {}
    for raw in tf.data.TFRecordDataset(str(events)):
        event = tf.compat.v1.Event.FromString(raw.numpy())
        for value in event.summary.value:
            seen.setdefault(value.tag, {})[event.step] = float(tf.make_ndarray(value.tensor))
    assert seen["loss"] == {line["step"]: pytest.approx(line["loss"]) for line in lines}
    assert set(seen["images_per_second"]) == {10, 20, 30, 40}


def test_lines_of_a_past_that_is_trained_again_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 10}\n{"step": 20}\n{"step": 30}\n{"step": 4')
    assert read_metrics(str(path)) == [{"step": 10}, {"step": 20}, {"step": 30}]
    MetricsFile(str(path)).begin(20)
    assert path.read_text() == '{"step": 10}\n{"step": 20}\n'
    assert list(tmp_path.iterdir()) == [path]
    assert read_metrics(str(tmp_path / "none.jsonl")) == []


def test_an_object_store_gets_each_line_once(monkeypatch):
    store = ObjectStore().install(monkeypatch)
    path = "gs://bucket/run/metrics.jsonl"
    file = MetricsFile(path)
    file.begin(0)
    for step in range(1, 51):
        file.append({"step": step, "loss": 1 / step})
    # Writing a line takes a put and a rename of that line's bytes, however many lines there are.
    assert store.calls["put"] == 100 and max(map(len, store.objects.values())) < 60
    assert store.calls["exists"] <= 1
    assert [line["step"] for line in read_metrics(path)] == list(range(1, 51))
    MetricsFile(path).begin(40)  # the next process, after a kill
    assert list(store.objects) == [path]
    file = MetricsFile(path)
    file.append({"step": 41})
    file.close()
    assert list(store.objects) == [path]
    assert [line["step"] for line in read_metrics(path)] == list(range(1, 42))


def test_every_line_is_json_even_where_a_metric_is_not_finite(tmp_path):
    model = make_model()
    diagnostics = Diagnostics(str(tmp_path), Speed(BATCH), lambda: 7, tensorboard=False)
    diagnostics.set_model(model)
    diagnostics.write(7, {"loss": float("nan"), "bias": -10.0})

    def refuse(text):
        raise AssertionError(f"not JSON: {text}")

    line = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=refuse)
    assert line["loss"] is None and line["bias"] == -10.0


def test_bad_arguments_are_named(tmp_path):
    with pytest.raises(ValueError, match="global_batch_size=0"):
        Speed(0)
    with pytest.raises(ValueError, match="every=0"):
        Diagnostics(str(tmp_path), Speed(1), lambda: 0, every=0)
