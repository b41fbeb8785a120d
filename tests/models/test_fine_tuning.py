"""Fine-tuning: only what was chosen moves, adapters save alone, merge exactly, and go on as if never interrupted."""

import os

import keras
import numpy as np
import pytest
import tensorflow as tf
from safetensors.numpy import load_file

import siglip_tf
from siglip_tf.models import layerwise_decay
from siglip_tf.optimizers import AdamW
from tests.models import small
from tests.replicas import mirrored

DEEP = {"image_depth": 2, "text_depth": 2}


def values(model):
    return {name: v.numpy() for name, v in model.named_weights().items()}


def test_each_setup_moves_its_own_weights_alone():
    head = ("image/head/", "text/head/")
    setups = [
        ({}, ("",)),
        ({"image": "frozen"}, ("text/", "log_temperature", "bias")),
        ({"text": "frozen", "temperature": False}, ("image/",)),
        ({"image": 1, "text": "frozen"}, ("image/block_1/", "image/final", "image/head/", "log", "bias")),
        ({"image": "head", "text": "head"}, (*head, "log_temperature", "bias")),
        ({"image": "frozen", "text": "frozen"}, ("log_temperature", "bias")),
    ]
    model = small.model(**DEEP)
    start = model.get_weights()
    for arguments, prefixes in setups:
        model.set_weights(start)
        named = model.train_only(**arguments)
        assert [name for name in values(model) if name.startswith(prefixes)] == named, arguments
        assert {id(v) for v in model.trainable_variables} == {id(model.named_weights()[n]) for n in named}
        before = values(model)
        model.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
        model.train_on_batch(small.batch(8))
        moved = {name for name, value in values(model).items() if np.any(value != before[name])}
        still = {name for name in named if name.endswith("key/bias")}  # their gradient is zero
        assert moved == set(named) - still, arguments


def adapted(eagerly=True, **options):
    keras.utils.set_random_seed(5)
    model = small.model(**{**DEEP, **options})
    model.enable_lora({"image": 2, "text": {"q": 3, "v": 1, "fc1": 2}})
    model.compile(AdamW(1e-2), run_eagerly=eagerly)
    return model


def test_adapters_train_alone_save_alone_and_merge(tmp_path):
    model = adapted()
    base, batch = values(model), small.batch(8)
    first = model.encode_image(batch["image"]).numpy()
    model.fit(small.dataset(8, 3), verbose=0)
    tuned = values(model)
    assert {name for name in base if np.any(base[name] != tuned[name])} == {"log_temperature", "bias"}
    images, texts = model.encode_image(batch["image"]), model.encode_text(batch["text"])
    assert np.abs(images - first).max() > 1e-3

    model.save_adapters(tmp_path / "adapters.safetensors")
    arrays = load_file(tmp_path / "adapters.safetensors")
    ranks = {k: v.shape for k, v in arrays.items() if k.startswith("text/block_1") and k.endswith("lora_a")}
    assert ranks == {
        "text/block_1/attention/query/lora_a": (32, 3),
        "text/block_1/attention/value/lora_a": (32, 1),
        "text/block_1/mlp/fc1/lora_a": (32, 2),
    }
    assert os.path.getsize(tmp_path / "adapters.safetensors") < 64 * 1024
    again = small.model(**DEEP)
    again.assign_weights(base)
    again.load_adapters(tmp_path / "adapters.safetensors")
    again.load_adapters(tmp_path / "adapters.safetensors")  # once more sets the same values
    np.testing.assert_array_equal(again.encode_image(batch["image"]), images)
    assert len(again.trainable_variables) == len(model.trainable_variables)

    model.save_checkpoint(tmp_path / "merged")
    read = siglip_tf.SigLIP.from_checkpoint(tmp_path / "merged", verbose=False)
    for other in (model.merge_lora(), read):
        assert not any("lora" in v.path for v in other.weights)
        np.testing.assert_allclose(other.encode_image(batch["image"]), images, rtol=0, atol=1e-5)
        np.testing.assert_allclose(other.encode_text(batch["text"]), texts, rtol=0, atol=1e-5)
    kernel = {k: v for k, v in arrays.items() if k.startswith("image/block_0/attention/out/")}
    change = kernel["image/block_0/attention/out/lora_a"].astype(float) @ kernel["image/block_0/attention/out/lora_b"]
    expected = base["image/block_0/attention/out/kernel"].reshape(32, 32) + change
    found = values(read)["image/block_0/attention/out/kernel"].reshape(32, 32)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="adapters of this model"):
        small.model(text_depth=1).load_adapters(tmp_path / "adapters.safetensors")


@pytest.mark.slow
def test_saved_loaded_and_continued_equals_uninterrupted(tmp_path):
    whole, halves = adapted(), adapted()
    whole.fit(small.dataset(8, 2), verbose=0)
    whole.fit(small.dataset(8, 2), verbose=0)
    halves.fit(small.dataset(8, 2), verbose=0)
    halves.save(tmp_path / "halves.keras")
    again = keras.models.load_model(tmp_path / "halves.keras")
    again.run_eagerly = True
    assert int(again.optimizer.iterations) == 2
    again.fit(small.dataset(8, 2), verbose=0)
    for a, b in zip(whole.weights, again.weights, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy(), err_msg=a.path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"remat": "block", "scan_layers": True, "microbatch_size": 4},
        pytest.param({"replicas": 2}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_adapters_train_alike_however_memory_is_saved_and_replicas_share(options):
    options = dict(options)
    strategy = mirrored(options.pop("replicas")) if "replicas" in options else tf.distribute.get_strategy()
    with strategy.scope():
        other = adapted(eagerly=False, **options)
    plain = adapted()
    for model in (plain, other):
        model.fit(small.dataset(8, 2), verbose=0)
    for a, b in zip(plain.trainable_variables, other.trainable_variables, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=0, atol=2e-5, err_msg=a.path)


def test_layerwise_decay_falls_from_head_to_embeddings():
    model = small.model(**DEEP)
    groups = layerwise_decay(model, 0.5, ["image"])
    optimizer = AdamW(1e-2, groups=groups)
    model.compile(optimizer)
    names = [v.path.partition("siglip/")[2] or v.path for v in model.trainable_variables]
    rates = dict(zip(names, optimizer._learning_rate_multipliers, strict=True))
    for part, rate in (("head", 1), ("final_norm", 1), ("block_1", 0.5), ("block_0", 0.25), ("p", 0.125)):
        found = {r for name, r in rates.items() if name.startswith(f"image/{part}")}
        assert found == {rate}, part
    assert {r for name, r in rates.items() if not name.startswith("image/")} == {1}
    model.train_only(image=1, text="frozen")
    assert [g.pattern for g in layerwise_decay(model, 0.5)] == ["(^|/)image/block_1/"]


def test_wrong_choices_are_named():
    model = small.model(**DEEP)
    before = model.get_config()
    cases = [
        (lambda: model.enable_lora(0), "LoRA rank of 1 to 32.*rank=0"),
        (lambda: model.enable_lora(33), "rank=33"),
        (lambda: model.enable_lora(2.0), "rank=2.0"),
        (lambda: model.enable_lora(2, ["q", "w"]), r"projections among q, k, v, out, fc1, fc2. Received: .'w'."),
        (lambda: model.enable_lora(2, []), "projections among"),
        (lambda: model.enable_lora({"audio": 2}), "towers among image, text. Received: .'audio'."),
        (lambda: model.enable_lora({"image": {"q": 0}}), "rank=0"),
        (lambda: model.enable_lora(2, alpha=0.0), "lora_alpha > 0"),
        (lambda: model.train_only(image=3), "last blocks from 1 to 2. Received: image=3"),
        (lambda: model.train_only(text="tail"), "text='tail'"),
        (lambda: model.train_only(image="frozen", text="frozen", temperature=False), "something to train"),
        (lambda: small.model(image_pool="gap").train_only(image="head"), "without one"),
        (lambda: model.save_adapters("nowhere"), "with adapters"),
        (lambda: layerwise_decay(model, 1.5), r"in \(0, 1\]"),
        (lambda: layerwise_decay(model, 0.5, ["audio"]), "towers among"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(FileNotFoundError, match="no adapters at"):
        model.load_adapters("nowhere")
    assert model.get_config() == before
    model.enable_lora(1)
    with pytest.raises(ValueError, match="without an adapter.*rank 1"):
        model.enable_lora(2)
