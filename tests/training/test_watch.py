"""NaN and spikes: the run stops with a post-mortem, or goes back and passes over the bad batches."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from siglip_tf.training import Resume, UnstableTrainingError, Watch, train
from tests.training.small_run import BATCH, STEPS, batches, make_model, make_siglip, training_data, weights


def poisoned(bad, value):
    """The usual batches, with the targets of some replaced by a value."""

    def data(start):
        def spoil(index, batch):
            images, targets = batch
            is_bad = tf.reduce_any(index == tf.constant(bad, tf.int64))
            return images, tf.where(is_bad, tf.fill(targets.shape, np.float32(value)), targets)

        return tf.data.Dataset.zip(tf.data.Dataset.range(start, 1_000_000), batches(start)).map(spoil)

    return data


def run(directory, data, said=None, model=None, max_skips=10, **options):
    model = model or make_model()
    resume = Resume(str(directory), every=10, say=said.append if said is not None else lambda text: None)
    train(
        model,
        data,
        steps=STEPS,
        global_batch_size=BATCH,
        resume=resume,
        watch=Watch(resume, **options),
        tensorboard=False,
        progress=False,
        max_skips=max_skips,
    )
    return model, resume


def test_nan_stops_the_run_and_leaves_a_post_mortem(tmp_path):
    with pytest.raises(UnstableTrainingError, match=r"loss is nan at step 24; the state is in .*post_mortem") as fault:
        run(tmp_path, poisoned([23], np.nan))
    assert (fault.value.step, fault.value.batches) == (24, 24)
    folder = tmp_path / "post_mortem" / "step_000000024"
    state = json.loads((folder / "state.json").read_text())
    assert state["metrics"]["loss"] == "nan" and len(state["history"]) == 24
    assert state["history"][-2]["loss"] > 0
    assert (folder / "variables.index").exists()
    steps = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert steps == ["step_000000010", "step_000000020"]


@pytest.mark.slow
def test_nan_is_passed_over(tmp_path):
    said = []
    model, resume = run(tmp_path, poisoned([23, 24], np.nan), said, action="skip")
    assert (resume.step, resume.batches) == (STEPS, STEPS + 4 + 1)
    assert all(np.isfinite(w).all() for w in weights(model))
    assert sum("Went back to step 20" in text for text in said) == 2

    # The same as training on the other batches alone.
    def without(start):
        order = [i for i in range(60) if i not in range(20, 25)]
        kept = [next(iter(batches(i).take(1))) for i in order[start : start + STEPS]]
        return tf.data.Dataset.from_generator(lambda: iter(kept), output_signature=batches(0).element_spec)

    other, _ = run(tmp_path / "other", without)
    for mine, theirs in zip(weights(model), weights(other), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_a_fault_before_the_first_checkpoint_goes_back_to_the_start(tmp_path):
    _, resume = run(tmp_path, poisoned([3], np.nan), action="skip")
    assert (resume.step, resume.batches) == (STEPS, STEPS + 4)


@pytest.mark.slow
def test_training_data_stays_where_it_stands_when_batches_are_passed_over(tmp_path):
    class Spoil(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if int(self.model.optimizer.iterations) == 12 and not spoiled:
                spoiled.append(batch)
                self.model.bias.assign(np.nan)

    spoiled, model = [], make_siglip()
    resume = Resume(str(tmp_path), every=10, say=lambda text: None)
    train(
        model,
        training_data(),
        steps=20,
        global_batch_size=BATCH,
        resume=resume,
        watch=Watch(resume, "skip"),
        callbacks=[Spoil()],
        tensorboard=False,
        progress=False,
    )
    assert (resume.step, resume.batches) == (20, 23)
    state = json.loads((tmp_path / "checkpoints" / "step_000000020" / "state.json").read_text())
    (position,) = (worker["data"] for worker in state["workers"])
    assert position["step"] == 23
    assert sum(position["passed"].values()) == 23 * BATCH + sum(position["skipped"].values())
    assert np.isfinite(model.bias.numpy())


def test_a_run_that_is_always_broken_ends(tmp_path):
    with pytest.raises(UnstableTrainingError, match="loss is nan"):
        run(tmp_path, poisoned(list(range(100)), np.nan), action="skip", max_skips=3)


def test_a_spike_is_found_beside_the_recent_past(tmp_path):
    with pytest.raises(UnstableTrainingError, match=r"loss is .* over 3 times its median .* at step 31"):
        run(tmp_path, poisoned([30], 300.0), spikes={"loss": 3.0}, patience=15, window=10)
    assert (tmp_path / "post_mortem" / "step_000000031" / "complete.json").exists()


def test_a_broken_state_never_becomes_a_checkpoint(tmp_path):
    model, said = make_model(), []
    resume = Resume(str(tmp_path), every=10, say=said.append)
    resume.restore(model)
    model.fit(poisoned([12], np.nan)(0), steps_per_epoch=25, callbacks=[resume], verbose=0)
    assert resume.store.steps() == [10]
    assert "No checkpoint at step 20: loss not finite" in said[0]


def test_looking_now_and_then_counts_every_step(tmp_path):
    with pytest.raises(UnstableTrainingError) as fault:
        run(tmp_path, poisoned([21], np.nan), every=8)
    assert fault.value.step == 24


def test_bad_arguments_are_named(tmp_path):
    resume = Resume(str(tmp_path))
    with pytest.raises(ValueError, match="action='ignore'"):
        Watch(resume, "ignore")
    with pytest.raises(ValueError, match=r"loss=0\.5"):
        Watch(resume, spikes={"loss": 0.5})
    with pytest.raises(ValueError, match="window=1"):
        Watch(resume, window=1)
    with pytest.raises(ValueError, match="no metric 'los'"):
        run(tmp_path, batches, spikes={"los": 2.0}, patience=2)
