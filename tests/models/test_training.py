"""The train step beside plain Keras: its optimizer, its epoch means, its dtype policies, and what it refuses."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import siglip_tf
from siglip_tf.optimizers import AdamW
from tests.models import small
from tests.replicas import mirrored


class OwnStep(siglip_tf.SigLIP):
    """Keras' own way to add a loss."""

    def train_step(self, data):
        with tf.GradientTape() as tape:
            found = self(data, training=True)
            loss = siglip_tf.losses.sigmoid_loss(
                found["image_embedding"], found["text_embedding"], self.log_temperature, self.bias
            )
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return {"loss": loss}


def _trained(strategy, path):
    with strategy.scope():
        keras.utils.set_random_seed(0)
        model = OwnStep(image="mu/8", text="mu", **small.SIZES)
        model.compile(keras.optimizers.SGD(0.1))
        model.save(path)
        again = keras.models.load_model(path, custom_objects={"OwnStep": OwnStep})
    again.fit(small.dataset(8, steps=2), verbose=0)
    return [[v.numpy() for v in strategy.experimental_local_results(w.value)] for w in again.trainable_variables]


@pytest.mark.slow
def test_a_train_step_of_ones_own_sums_gradients_over_replicas(tmp_path):
    """Compiled, saved and loaded: `fit` runs it by `strategy.run`, as a loop of one's own does."""
    alone = _trained(tf.distribute.get_strategy(), tmp_path / "one.keras")
    together = _trained(mirrored(2), tmp_path / "two.keras")
    for (expected,), copies in zip(alone, together, strict=True):
        for copy in copies:
            np.testing.assert_allclose(copy, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("make", [AdamW, pytest.param(keras.optimizers.AdamW, marks=pytest.mark.slow)])
def test_frozen_weights_and_the_optimizer_survive_a_file(tmp_path, make):
    model = small.model(tower_norms=True)
    model.compile(make(1e-2), run_eagerly=True)
    model.fit(small.dataset(steps=1), verbose=0)  # the optimizer knows all weights, and then some are frozen
    model.image.trainable = False
    model.text.token_embedding.trainable = False
    model.bias.trainable = False
    model.compile(model.optimizer, run_eagerly=True)
    before = [v.numpy() for v in model.trainable_variables]
    logs = model.train_on_batch(small.batch(), return_dict=True)
    after = [v.numpy() for v in model.trainable_variables]
    change = [np.sum(np.square(a - b, dtype=np.float64)) for a, b in zip(after, before, strict=True)]
    np.testing.assert_allclose(logs["update_norm"], np.sqrt(sum(change)), rtol=1e-4)
    assert "text_update_norm" in logs and "image_update_norm" not in logs

    model = small.model()
    model.image.trainable = False
    model.text.blocks[0].mlp.fc1.kernel.trainable = False
    model.compile(make(1e-2), run_eagerly=True)
    model.fit(small.dataset(steps=2), verbose=0)
    model.save(tmp_path / "frozen.keras")
    again = keras.models.load_model(tmp_path / "frozen.keras")
    again.run_eagerly = True
    assert [v.path for v in again.trainable_variables] == [v.path for v in model.trainable_variables]
    assert not again.image.trainable and again.text.trainable
    assert int(again.optimizer.iterations) == 2
    frozen = {name: v.numpy() for name, v in again.named_weights().items() if not v.trainable}
    for each in (model, again):
        each.fit(small.dataset(steps=2), verbose=0)
    for name, variable in again.named_weights().items():
        np.testing.assert_array_equal(variable.numpy(), model.named_weights()[name].numpy(), err_msg=name)
        np.testing.assert_array_equal(variable.numpy(), frozen.get(name, variable.numpy()))
    again.image.trainable = True
    with pytest.raises(ValueError, match="Compile again with a new optimizer"):
        again.fit(small.dataset(steps=1), verbose=0)
    again.trainable = False
    with pytest.raises(ValueError, match="Expected something to train"):
        again.fit(small.dataset(steps=1), verbose=0)


@pytest.mark.slow
def test_history_holds_epoch_means_and_callbacks_see_each_step():
    model, steps = small.model(tower_norms=True), []
    model.compile(keras.optimizers.SGD(0.1), steps_per_execution=1)
    keep = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: steps.append(dict(logs)))
    history = model.fit(small.dataset(8, 3), epochs=2, verbose=0, callbacks=[keep]).history
    assert set(history) == set(steps[0])
    for name, values in history.items():
        expected = [np.mean([float(s[name]) for s in steps[3 * e : 3 * e + 3]]) for e in range(2)]
        np.testing.assert_allclose(values, expected, rtol=1e-5, err_msg=name)


def test_policies_with_small_or_large_weights_are_refused_in_a_sentence():
    for policy in ("bfloat16", "float16", "float64"):
        model = small.model(dtype=policy)
        model.compile("adamw", run_eagerly=True)
        model.evaluate(small.dataset(steps=1), verbose=0)
        with pytest.raises(ValueError, match=f"dtype policy '{policy}'. Use 'mixed_bfloat16'"):
            model.fit(small.dataset(steps=1), verbose=0)


def test_a_step_that_the_loss_scaler_passes_over_is_no_fault():
    model, steps = small.model(dtype="mixed_float16"), []
    model.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1), initial_scale=2.0**30))
    keep = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: steps.append(dict(logs)))
    before = [v.numpy() for v in model.trainable_variables]

    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if not logs["skipped_update"]:
                self.model.stop_training = True
            else:
                for a, b in zip(before, self.model.trainable_variables, strict=True):
                    np.testing.assert_array_equal(a, b.numpy())

    model.fit(small.dataset(8, 30), verbose=0, callbacks=[keep, Stop()])
    skipped = [bool(s["skipped_update"]) for s in steps]
    assert skipped[0] and not skipped[-1]
    assert all(np.isfinite(list(map(float, s.values()))).all() for s in steps)
    assert all((s["update_norm"] == s["gradient_norm"] == 0) == skip for s, skip in zip(steps, skipped, strict=True))
    assert any(np.any(a != b.numpy()) for a, b in zip(before, model.trainable_variables, strict=True))


def test_what_would_be_ignored_is_refused():
    class OwnLoss(siglip_tf.SigLIP):
        def compute_loss(self, *args, **kwargs):
            return 0.0

    class AddedLoss(siglip_tf.SigLIP):
        def call(self, inputs, training=False):
            found = super().call(inputs, training)
            self.add_loss(tf.reduce_mean(found["image_embedding"]))
            return found

    for kind, message in ((OwnLoss, "compute_loss"), (AddedLoss, "call")):
        model = kind(image="mu/8", text="mu", **small.SIZES)
        model.compile("sgd")
        with pytest.raises(ValueError, match=f"no override of .'{message}'.*Override `train_step`"):
            model.fit(small.dataset(), verbose=0)
    model = small.model()
    model.compile("sgd")
    model.text.head.kernel.regularizer = keras.regularizers.L2(1e-2)
    with pytest.raises(ValueError, match="no `add_loss` and no regularizers"):
        model.fit(small.dataset(), verbose=0)
    model = small.model()
    model.compile("sgd", run_eagerly=True)
    model.text.drop.activity_regularizer = keras.regularizers.L2(1e-2)
    with pytest.raises(ValueError, match="no `add_loss` and no regularizers"):
        model.fit(small.dataset(), verbose=0)
    with pytest.raises(ValueError, match="steps_per_execution to be a positive integer.*'auto'"):
        model.compile("sgd", steps_per_execution="auto")


@pytest.mark.slow
def test_an_optimizer_with_a_reduction_over_no_axis_trains():
    class NoAxis(keras.optimizers.SGD):
        def update_step(self, gradient, variable, learning_rate):
            super().update_step(keras.ops.mean(gradient, axis=()), variable, learning_rate)

    found = []
    for make in (keras.optimizers.SGD, NoAxis):
        keras.utils.set_random_seed(0)
        model = small.model()
        model.compile(make(0.1), run_eagerly=True)
        model.fit(small.dataset(steps=1), verbose=0)
        found.append([v.numpy() for v in model.trainable_variables])
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)


def test_bfloat16_gradients_are_those_of_float32_for_every_weight():
    """Many repeated ids and pads: what is summed over a batch must not be summed in bfloat16."""
    rng = np.random.default_rng(0)
    n = 512
    text = np.concatenate([rng.integers(1, 4, (n, 8)), np.zeros((n, 8), int)], 1).astype(np.int32)
    text[:, 0] = rng.integers(4, 40, n)
    batch = {"image": rng.uniform(-1, 1, (n, 16, 16, 3)).astype(np.float32), "text": text}
    found = []
    for policy in ("float32", "mixed_bfloat16"):
        keras.utils.set_random_seed(0)
        model = small.model(dtype=policy, text_length=16, init_bias=-3.0)
        model.compile(keras.optimizers.SGD(1.0), run_eagerly=True)
        before = [v.numpy() for v in model.trainable_variables]
        model.train_on_batch(batch)
        found.append([b - v.numpy() for b, v in zip(before, model.trainable_variables, strict=True)])
    for expected, got, variable in zip(*found, model.trainable_variables, strict=True):
        size = np.linalg.norm(expected)
        if variable.path.endswith("key/bias"):
            assert size == 0 and not np.any(got)
        else:
            assert np.linalg.norm(got - expected) <= 0.05 * size, variable.path


def test_the_token_table_sums_repeated_ids_in_float32():
    from siglip_tf.models.token_embedding import TokenEmbedding

    table = TokenEmbedding(3, 2, dtype="mixed_bfloat16")
    table.build()
    ids = tf.ones((1000, 100), tf.int32)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(tf.cast(table(ids), tf.float32))
    assert table(ids).dtype == tf.bfloat16
    np.testing.assert_array_equal(tape.gradient(total, table.embedding.value), [[0, 0], [1e5, 1e5], [0, 0]])
