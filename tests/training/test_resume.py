"""Going on from a checkpoint, in the same process: bit-identical, in the documented order, with clear refusals."""

import functools
import json
import pathlib
import random
import signal

import keras
import numpy as np
import pytest
import tensorflow as tf

from siglip_tf.optimizers import Lion
from siglip_tf.training import Resume, Watch, train
from siglip_tf.training.random_state import random_state_of_new_worker, set_process_random_state
from siglip_tf.training.store import write_marker
from tests.replicas import two_replicas
from tests.training.small_run import BATCH, STEPS, Die, batches, make_model, make_siglip, pairs, training_data, weights


def run(directory, steps=STEPS, model=None, said=None, data=batches, **options):
    model = model or make_model()
    say = said.append if said is not None else lambda text: None
    resume = Resume(str(directory), every=5, say=say, **options)
    train(
        model,
        data,
        steps=steps,
        global_batch_size=BATCH,
        resume=resume,
        log_every=1,
        tensorboard=False,
        progress=False,
    )
    return model


def assert_same(one, other):
    for mine, theirs in zip(weights(one), weights(other), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("options", [pytest.param({}, marks=pytest.mark.slow), {"asynchronous": True}], ids=str)
def test_a_run_in_two_parts_equals_one(tmp_path, options):
    whole = run(tmp_path / "whole", **options)
    run(tmp_path / "parts", steps=17, **options)
    said = []
    assert_same(whole, run(tmp_path / "parts", said=said, **options))
    assert "Resumed at step 17" in said[0]
    assert sorted(p.name for p in (tmp_path / "parts" / "checkpoints").iterdir()) == [
        f"step_{step:09d}" for step in (30, 35, 40)
    ]


@pytest.mark.slow
def test_metrics_and_their_running_means_go_on(tmp_path):
    run(tmp_path / "whole")
    run(tmp_path / "parts", steps=18)
    run(tmp_path / "parts")
    lines = [
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("whole", "parts")
    ]
    assert [line["step"] for line in lines[1]] == list(range(1, STEPS + 1))
    for key in ("loss", "schedule", "learning_rate", "examples"):
        assert [line[key] for line in lines[0]] == [line[key] for line in lines[1]]


def test_a_finished_run_says_so_and_does_nothing(tmp_path):
    done = run(tmp_path)
    said = []
    assert_same(done, run(tmp_path, said=said))
    assert said == [f"Resumed at step {STEPS} from {tmp_path}/checkpoints/step_{STEPS:09d}."]


def test_plain_fit_with_the_callback(tmp_path):
    whole = run(tmp_path / "whole")
    for stop in (12, STEPS):
        model = make_model()
        resume = Resume(str(tmp_path / "fit"), every=5)
        step = resume.restore(model)
        model.fit(batches(resume.batches), steps_per_epoch=stop - step, callbacks=[resume], verbose=0)
    assert_same(whole, model)


def test_fit_without_restore_is_refused_when_there_is_something_to_restore(tmp_path):
    run(tmp_path, steps=10)
    with pytest.raises(ValueError, match=r"holds a checkpoint at step 10.*resume\.restore\(model\)"):
        make_model().fit(batches(0), steps_per_epoch=3, callbacks=[Resume(str(tmp_path))], verbose=0)


def test_torn_and_corrupted_checkpoints_are_passed_over(tmp_path):
    whole = run(tmp_path / "whole")
    run(tmp_path / "parts", steps=20)
    folder = tmp_path / "parts" / "checkpoints"
    (folder / "step_000000020" / "complete.json").unlink()
    data = next((folder / "step_000000015").glob("variables.data*"))
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1  # the size is right, the checksum is not
    data.write_bytes(content)
    said = []
    assert_same(whole, run(tmp_path / "parts", said=said))
    assert "did not finish" in said[0] and "step_000000020" in said[0]
    assert "cannot be read" in said[1] and "step_000000015" in said[1]
    assert "Resumed at step 10" in said[2]


def test_the_order_of_beginnings(tmp_path):
    other = run(tmp_path / "other", steps=20)
    other.save_weights(tmp_path / "start.weights.h5")
    start = {"resume_from": str(tmp_path / "other"), "initial_weights": str(tmp_path / "start.weights.h5")}

    def beginning(directory, **options):
        model, said = make_model(), []
        model.layers[0].kernel.assign_add(tf.ones((6, 16)))
        resume = Resume(str(tmp_path / directory), say=said.append, **options)
        return resume.restore(model), said, model

    run(tmp_path / "own", steps=10)
    assert beginning("own", **start)[0] == 10
    step, said, model = beginning("empty", **start)
    assert step == 20 and "other" in said[0]
    assert_same(model, other)
    del start["resume_from"]
    step, said, model = beginning("empty", **start)
    assert step == 0 and "initial weights" in said[0]
    np.testing.assert_array_equal(model.layers[0].kernel, other.layers[0].kernel)
    assert beginning("empty", initial_weights=lambda m: m.set_weights(other.get_weights()))[0] == 0
    step, said, _ = beginning("empty")
    assert step == 0 and said == []
    with pytest.raises(ValueError, match="resume_from.*nowhere"):
        beginning("empty", resume_from=str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="no good checkpoint"):
        beginning("empty", resume_from=str(tmp_path))


def test_one_checkpoint_folder_can_be_named(tmp_path):
    run(tmp_path / "other", steps=20)
    path = tmp_path / "other" / "checkpoints" / "step_000000015"
    resume = Resume(str(tmp_path / "new"), resume_from=str(path))
    assert resume.restore(make_model()) == 15
    (path / "complete.json").unlink()
    with pytest.raises(ValueError, match=r"step_000000015 cannot be used.*did not finish"):
        Resume(str(tmp_path / "new"), resume_from=str(path)).restore(make_model())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda: make_model(width=17), r"model variable \['dense/kernel', \[6, 16\].*stands where"),
        (lambda: _with_optimizer(make_model(), Lion()), "optimizer variables"),
    ],
)
def test_a_checkpoint_of_another_model_is_named(tmp_path, change, words):
    run(tmp_path, steps=5)
    with pytest.raises(ValueError, match=words):
        Resume(str(tmp_path)).restore(change())


def _with_optimizer(model, optimizer):
    model.compile(optimizer=optimizer, loss="mse")
    return model


class Positioned:
    """`batches` with a position that counts what was restored and asked for."""

    def __init__(self):
        self.start, self.asked = 0, []

    def dataset(self, context=None):
        replicas = 1 if context is None else context.num_replicas_in_sync
        return batches(self.start).unbatch().batch(BATCH // replicas, drop_remainder=True)

    def state(self, step):
        self.asked.append(step)
        return {"step": step}

    def restore(self, state):
        self.start = state["step"]


def test_data_that_knows_its_position(tmp_path):
    whole = run(tmp_path / "whole", steps=12)
    for stop in (7, 12):
        data, model = Positioned(), make_model()
        run(tmp_path / "parts", steps=stop, model=model, data=data)
    assert (data.start, data.asked) == (7, [10, 12])
    assert_same(whole, model)
    with pytest.raises(ValueError, match=r"no position of the data.*data=None"):
        Resume(str(tmp_path / "whole"), data=Positioned()).restore(make_model())


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [1, 2])
def test_training_data_goes_on_behind_its_broken_records(tmp_path, replicas):
    strategy = two_replicas() if replicas == 2 else tf.distribute.get_strategy()

    def part(name, stop):
        with strategy.scope():
            model = make_siglip()
        return run(tmp_path / name, steps=stop, model=model, data=training_data())

    whole = part("whole", 12)
    part("parts", 7)
    assert_same(whole, part("parts", 12))
    state = json.loads((tmp_path / "parts" / "checkpoints" / "step_000000012" / "state.json").read_text())
    (position,) = (worker["data"] for worker in state["workers"])
    read, skipped = sum(position["passed"].values()), sum(position["skipped"].values())
    assert read == 12 * BATCH + skipped and skipped > 5


def test_random_states_and_further_states_come_back(tmp_path):
    class Reader:
        skipped = 0

        def get_state(self):
            return {"skipped": self.skipped}

        def set_state(self, state):
            self.skipped = state["skipped"]

    class Draw(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.drawn = []

        def on_train_batch_begin(self, batch, logs=None):
            self.drawn.append((random.random(), np.random.rand(), float(extra.uniform(()))))

    reader, drawn = Reader(), []
    for stop in (7, 12):
        keras.utils.set_random_seed(len(drawn))
        extra = tf.random.Generator.from_seed(1)
        draw, model = Draw(), make_model()
        reader.skipped = -1 if drawn else 5
        resume = Resume(str(tmp_path), every=5, states={"reader": reader}, trackables={"extra": extra})
        step = resume.restore(model)
        if step:
            assert reader.skipped == 5
        model.fit(batches(step), steps_per_epoch=stop - step, callbacks=[resume, draw], verbose=0)
        drawn += draw.drawn
    assert step == 7

    keras.utils.set_random_seed(0)
    extra = tf.random.Generator.from_seed(1)
    draw, model = Draw(), make_model()
    model.fit(batches(0), steps_per_epoch=12, callbacks=[draw], verbose=0)
    assert draw.drawn == drawn
    with pytest.raises(ValueError, match=r"no state for \['more'\]"):
        Resume(str(tmp_path), states={"more": reader}).restore(make_model())


def test_sigterm_saves_the_running_step_and_exits(tmp_path):
    whole = run(tmp_path / "whole")
    model, said = make_model(), []
    resume = Resume(str(tmp_path / "parts"), every=1000, say=said.append)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stopped:
        train(
            model,
            batches,
            steps=STEPS,
            global_batch_size=BATCH,
            resume=resume,
            progress=False,
            tensorboard=False,
            callbacks=[Die(resume, 12, signal.SIGTERM)],
        )
    assert stopped.value.code == 128 + signal.SIGTERM
    assert "after step 12" in said[-1]
    assert signal.getsignal(signal.SIGTERM) is before
    assert_same(whole, run(tmp_path / "parts"))


def test_steps_per_execution_counts_every_step(tmp_path):
    def model():
        made = make_model()
        made.compile(optimizer=made.optimizer, loss="mse", steps_per_execution=5)
        return made

    whole = run(tmp_path / "whole", model=model())
    run(tmp_path / "parts", steps=15, model=model())
    again = model()
    assert_same(whole, run(tmp_path / "parts", model=again))
    assert int(again.optimizer.iterations) == STEPS
    with pytest.raises(ValueError, match="multiples of the model's steps_per_execution=5"):
        run(tmp_path / "other", steps=12, model=model())


@pytest.mark.parametrize(
    ("kind", "replicas"),
    [
        pytest.param("sequential", 2, marks=pytest.mark.slow),
        pytest.param("siglip", 1, marks=pytest.mark.slow),
        pytest.param("siglip", 2, marks=pytest.mark.slow),
    ],
)
def test_models_and_strategies(tmp_path, kind, replicas):
    # Replicas draw from Keras' own dropout in whatever order they run in, so that no two runs are the same.
    plain = functools.partial(make_model, dropout=0.0 if replicas > 1 else 0.3)
    make, data = {"siglip": (make_siglip, pairs), "sequential": (plain, batches)}[kind]
    strategy = two_replicas() if replicas == 2 else tf.distribute.get_strategy()

    def parts(name, stops):
        for stop in stops:
            with strategy.scope():
                model = make()
            run(tmp_path / name, steps=stop, model=model, data=data)
        return model

    assert_same(parts("whole", [12]), parts("parts", [7, 12]))


def test_a_remote_directory(tmp_path):
    run("ram://resume/run", steps=11)
    said = []
    assert_same(run(tmp_path / "whole", steps=20), run("ram://resume/run", steps=20, said=said))
    assert "Resumed at step 11" in said[0]


def test_another_number_of_workers(tmp_path):
    """A worker that joins draws numbers of its own; states of each worker are refused."""

    class Counter:
        def get_state(self):
            return 1

        def set_state(self, state):
            pass

    run(tmp_path, steps=5, states={"reader": Counter()})
    state = next(tmp_path.glob("checkpoints/*/state.json"))
    content = json.loads(state.read_text())
    content["workers"] = content["workers"] * 2
    state.write_text(json.dumps(content))
    (state.parent / "complete.json").unlink()
    write_marker(str(state.parent), 5)
    said = []
    assert Resume(str(tmp_path), say=said.append).restore(make_model()) == 5
    assert "The checkpoint is of 2 workers and this run has 1" in said[-1]
    with pytest.raises(ValueError, match=r"Expected 2 workers.*\['reader'\].*Received: 1 workers"):
        Resume(str(tmp_path), states={"reader": Counter()}).restore(make_model())

    saved = content["workers"][0]["random"]
    states = [random_state_of_new_worker(saved, worker) for worker in (1, 2, 2)]
    drawn = []
    for each in [saved, *states]:
        set_process_random_state(each)
        drawn.append((random.random(), np.random.rand()))
    assert len(set(drawn)) == 3 and drawn[2] == drawn[3]


def test_a_step_that_the_loss_scaler_passes_over_is_no_fault(tmp_path):
    """The first steps overflow in float16 with a scale this large; nothing stops, and no batch is skipped."""

    def scaled():
        keras.config.set_dtype_policy("mixed_float16")
        model = make_model(dropout=0.0)
        optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1e-3), initial_scale=2.0**30)
        model.compile(optimizer=optimizer, loss="mse")
        keras.config.set_dtype_policy("float32")
        return model

    class Norms(keras.callbacks.Callback):  # as a step reports them that computes norms of its gradients
        def on_train_batch_end(self, batch, logs=None):
            passed_over.append(resume.passed_over.last)

    passed_over, said = [], []
    model = scaled()
    resume = Resume(str(tmp_path), every=5, say=said.append)
    watch = Watch(resume, "skip", say=said.append)
    options = {"tensorboard": False, "progress": False, "callbacks": [Norms()]}
    train(model, batches, steps=20, global_batch_size=BATCH, resume=resume, watch=watch, **options)
    assert (resume.step, resume.batches, resume.store.steps()) == (20, 20, [10, 15, 20])
    assert passed_over[0] and not passed_over[-1]
    assert resume.passed_over.total == sum(passed_over) == 20 - int(model.optimizer.iterations)
    resume.passed_over.last = True
    assert watch.fault({"loss": 1.0, "gradient_norm": float("inf")}) is None
    assert watch.fault({"loss": float("nan"), "gradient_norm": 1.0}) == "loss is nan"
    resume.passed_over.last = False
    assert watch.fault({"loss": 1.0, "gradient_norm": float("inf")}) == "gradient_norm is inf"


def test_bad_arguments_are_named(tmp_path):
    with pytest.raises(ValueError, match="every=0"):
        Resume(str(tmp_path), every=0)
    with pytest.raises(ValueError, match="steps=0"):
        run(tmp_path, steps=0)
    automatic = make_model()
    automatic.steps_per_execution = "auto"
    with pytest.raises(ValueError, match="steps_per_execution='auto'"):
        run(tmp_path, model=automatic)
    unbuilt = keras.Sequential([keras.layers.Dense(2)])
    unbuilt.compile(loss="mse")
    with pytest.raises(ValueError, match="Build the model"):
        Resume(str(tmp_path)).restore(unbuilt)
    uncompiled = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="Compile the model"):
        Resume(str(tmp_path)).restore(uncompiled)
    assert not pathlib.Path(tmp_path, "checkpoints").exists()
