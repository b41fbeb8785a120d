"""SigLIP is a normal Keras model: it fits, saves, loads, summarises, and says what is wrong with its input."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import siglip_tf
from tests.losses import dense
from tests.models import small


def test_embeddings_are_unit_float32_and_the_loss_is_algorithm_1():
    model, batch = small.model(), small.batch()
    images, texts = model.encode_image(batch["image"]), model.encode_text(batch["text"])
    for embeddings in (images, texts):
        assert embeddings.dtype == tf.float32 and embeddings.shape == (16, 32)
        np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=1e-5)
    model.compile("adamw", run_eagerly=True)
    loss = model.evaluate(small.dataset(steps=1), verbose=0, return_dict=True)["loss"]
    expected = dense.sigmoid(images, texts, np.log(10), -10)[0]
    assert abs(loss / expected - 1) < 1e-6


@pytest.mark.slow
def test_fit_reports_the_step_and_learns():
    model = small.model(tower_norms=True)
    model.compile(keras.optimizers.AdamW(1e-2))
    history = model.fit(small.dataset(steps=1).repeat(30), verbose=0, epochs=2).history
    assert set(history) == {"loss", "temperature", "bias", "positive_logit", "negative_logit"} | {
        f"{tower}{what}_norm" for tower in ("", "image_", "text_") for what in ("gradient", "parameter", "update")
    }
    assert history["loss"][1] < 2 and history["positive_logit"][1] > history["negative_logit"][1] + 3
    towers = np.hypot(history["image_gradient_norm"], history["text_gradient_norm"])
    assert np.all(towers < history["gradient_norm"])


def test_step_metrics_equal_what_they_are_named_for():
    model, batch = small.model(), small.batch()
    model.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
    x, y = model.encode_image(batch["image"]), model.encode_text(batch["text"])
    logits = np.asarray(model.logits(x, y), np.float64)
    before = [v.numpy() for v in model.trainable_variables]
    logs = model.train_on_batch(batch, return_dict=True)
    after = [v.numpy() for v in model.trainable_variables]
    off_diagonal = logits[~np.eye(16, dtype=bool)]
    update = np.sqrt(sum(np.sum((a - b).astype(np.float64) ** 2) for a, b in zip(after, before, strict=True)))
    expected = {
        "positive_logit": np.diag(logits).mean(),
        "negative_logit": off_diagonal.mean(),
        "update_norm": update,
        "gradient_norm": update / 0.1,
        "parameter_norm": np.sqrt(sum(np.sum(a.astype(np.float64) ** 2) for a in after)),
    }
    for name, value in expected.items():
        assert abs(logs[name] / value - 1) < 1e-4, name


@pytest.mark.parametrize(
    "options",
    [
        {"init_bias": None, "token_bottleneck": 4},
        pytest.param({"loss": "softmax", "dropout": 0.1}, marks=pytest.mark.slow),
    ],
)
def test_round_trip_through_a_keras_file(tmp_path, options):
    model = small.model(**options)
    model.compile(keras.optimizers.AdamW(1e-3), run_eagerly=True)
    model.fit(small.dataset(steps=2), verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    again.run_eagerly = True
    assert again.get_config() == model.get_config()
    for a, b in zip(model.weights, again.weights, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    assert int(again.optimizer.iterations) == 2
    kept = [m.fit(small.dataset(steps=2), verbose=0).history["loss"] for m in (model, again)]
    assert kept[0] == kept[1]


def test_weights_file_summary_and_predict(tmp_path, capsys):
    model, other = small.model(), small.model()
    model.save_weights(tmp_path / "m.weights.h5")
    other.load_weights(tmp_path / "m.weights.h5")
    model.summary()
    assert "image (ImageTower)" in capsys.readouterr().out
    found = [m.predict(small.dataset(steps=2), verbose=0) for m in (model, other)]
    assert found[0]["image_embedding"].shape == found[0]["text_embedding"].shape == (32, 32)
    np.testing.assert_array_equal(found[0]["text_embedding"], found[1]["text_embedding"])


def test_mixed_precision_keeps_the_loss_and_the_weights_in_float32():
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = small.model()
    keras.config.set_dtype_policy("float32")
    assert model.encode_image(small.batch()["image"]).dtype == tf.float32
    assert {v.dtype for v in model.trainable_variables} == {"float32"}
    assert model.image(small.batch()["image"], pooled=False).dtype == tf.bfloat16
    model.compile(keras.optimizers.AdamW(1e-2))
    losses = model.fit(small.dataset(steps=1).repeat(8), verbose=0, epochs=2).history["loss"]
    assert losses[1] < 0.8 * losses[0]
    np.testing.assert_allclose(float(model.bias), -10, atol=0.3)


def test_stored_embeddings_train_the_text_tower_alone():
    model = small.model(image=None, embed_dim=24)
    model.compile(keras.optimizers.AdamW(1e-2))
    text = small.batch()["text"]
    stored = np.random.default_rng(1).standard_normal((16, 24)).astype(np.float16)
    data = tf.data.Dataset.from_tensors({"image_embedding": stored, "text": text, "id": text[:, 0]}).repeat(15)
    assert model.fit(data, verbose=0, epochs=2).history["loss"][1] < 3
    assert not any(name.startswith("image/") for name in model.named_weights())
    with pytest.raises(ValueError, match="no image tower"):
        model.encode_image(small.batch()["image"])


def test_a_frozen_tower_does_not_move_and_gets_no_gradient():
    model = small.model()
    model.image.trainable = False
    before = [w.numpy() for w in model.image.weights]
    model.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
    model.fit(small.dataset(steps=2), verbose=0)
    for a, b in zip(model.image.weights, before, strict=True):
        np.testing.assert_array_equal(a.numpy(), b)


def test_assign_weights_is_whole_or_nothing():
    model = small.model()
    weights = {name: v.numpy() + 1 for name, v in model.named_weights().items()}
    model.assign_weights(weights)
    assert float(model.bias) == -9
    wrong = {**weights, "bias": np.zeros(3), "extra": np.zeros(1)}
    del wrong["log_temperature"]
    with pytest.raises(ValueError, match=r"log_temperature: missing\n  extra: unexpected\n  bias: expected \(\)"):
        model.assign_weights(wrong)
    assert float(model.bias) == -9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image": "X/16"}, "tower size among mu, Ti.*Received: 'X'"),
        ({"image": "B"}, "patch size, as in 'B/16'"),
        ({"image": "B/16", "patch_size": 8}, "one patch size"),
        ({"image_size": 4}, "at least one patch of 8 pixels"),
        ({"image_size": (16, 16, 3)}, "pixels or .height, width."),
        ({"image_heads": 5}, "heads that divide the width 32. Received: num_heads=5"),
        ({"embed_dim": 64}, "width of the image tower, 32"),
        ({"image": None}, "embed_dim with image=None"),
        ({"text_head": False, "text_width": 64}, "width 32 where it has no head"),
        ({"image_pool": "max"}, "image_pool to be one of map, gap, tok"),
        ({"remat": "all"}, "remat to be one of none, .*Received: .all."),
        ({"dropout": 1.0}, "rate in"),
        ({"loss": "hinge"}, "sigmoid, softmax"),
        ({"loss": "softmax", "negatives": {"keep": "random", "ratio": 1}}, "with masked negatives"),
        ({"text_length": 0}, "text_length to be a positive integer. Received: 0"),
        ({"microbatch_size": 2.5}, "microbatch_size to be a positive integer"),
        ({"init_temperature": 0}, "positive init_temperature"),
    ],
)
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        small.model(**options)


def test_wrong_inputs_are_named():
    model, batch = small.model(), small.batch(4)
    cases = [
        (model.encode_image, batch["image"][0], r"\(batch, 16, 16, 3\). Received: \(16, 16, 3\)"),
        (model.encode_image, (batch["image"] * 127).astype(np.int32), "Received: dtype int32. Cast pixels"),
        (model.encode_image, batch["image"] * 127, "images in .-1, 1.. Received: a value of magnitude 12"),
        (model.encode_image, batch["image"][:, :8], r"Received: \(4, 8, 16, 3\)"),
        (model.encode_text, batch["text"].astype(np.float32), "int32 token ids. Received: dtype float32"),
        (model.encode_text, batch["text"][0], r"\(batch, 5\). Received: \(5,\)"),
        (model.encode_text, np.zeros((4, 6), np.int32), r"Received: \(4, 6\). Cut longer texts"),
        (model.encode_text, batch["text"] + 40, r"in \[0, 40\). Received: [4-7]"),
        (model, {"pixels": batch["image"]}, "'image', 'image_embedding' or 'text'. Received: keys .'pixels'."),
    ]
    for function, value, message in cases:
        with pytest.raises(ValueError, match=message):
            function(value)


def test_wrong_training_batches_are_named_before_the_first_step():
    model = small.model()
    model.compile("adamw")
    examples = tf.data.Dataset.from_tensor_slices(small.batch(6))
    unequal = tf.data.Dataset.from_tensors({"image": small.batch(4)["image"], "text": small.batch(3)["text"]})
    cases = [
        (examples.batch(4), "drop_remainder=True"),
        (unequal, "as many images as texts"),
        (examples.batch(4, drop_remainder=True).map(lambda b: {"text": b["text"]}), "'image' and 'text'"),
        (examples.batch(4, drop_remainder=True).map(lambda b: (b["image"], b["text"])), "Received: tuple"),
    ]
    before = [w.numpy() for w in model.weights]
    for data, message in cases:
        with pytest.raises(ValueError, match=message):
            model.fit(data, verbose=0)
    for a, b in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(a.numpy(), b)


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        ({"gradient_accumulation_steps": 2}, "microbatch_size"),
    ],
)
def test_options_that_are_wrong_for_this_loss_are_refused(optimizer, message):
    model = small.model()
    with pytest.raises(ValueError, match=message):
        model.compile(keras.optimizers.AdamW(**optimizer))
    with pytest.raises(ValueError, match="chosen by SigLIP"):
        model.compile("adamw", loss="mse")


def test_temperature_and_bias_start_as_asked():
    model = small.model(init_temperature=1.0, init_bias=0.0)
    assert float(model.log_temperature) == 0 and float(model.bias) == 0
    assert siglip_tf.SigLIP(**small.model(init_bias=None).get_config()).bias is None


def test_non_square_images_and_a_rest_smaller_than_a_patch():
    model = small.model(image_size=(24, 19))
    assert model.image.position_embedding.shape == (1, 3 * 2, 32)
    assert model.encode_image(np.zeros((2, 24, 19, 3), np.float32)).shape == (2, 32)
