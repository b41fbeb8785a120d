"""Rates and distributions of the corruptions against their binomial and uniform laws (SciPy's)."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from siglip_tf.data import Corruption

BATCH, LENGTH, VOCABULARY = 4000, 6, 50
P_VALUE = 1e-4  # the seeds are fixed: a pass stays a pass


def clean() -> dict[str, tf.Tensor]:
    """Rows that name themselves: image and text i hold values no corruption makes."""
    row = tf.range(BATCH)
    return {
        "image": tf.tile(tf.cast(row, tf.float32)[:, None, None, None] + 2.0, [1, 2, 2, 3]),
        "text": tf.tile(row[:, None] + VOCABULARY, [1, LENGTH]),
        "id": tf.strings.as_string(row),
    }


def corrupted(kind: str, probability: float, seed: int = 0, **options) -> dict[str, np.ndarray]:
    corruption = Corruption(kind, probability, vocab_size=VOCABULARY, **options)
    batch = tf.function(corruption)(clean(), tf.constant([3, seed]))
    return {name: value.numpy() for name, value in batch.items()}


def rates(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Which rows are noise images, random texts, and other rows' texts."""
    row = np.arange(BATCH)
    random_text = (batch["text"] < VOCABULARY).all(1)
    return {
        "image": (np.abs(batch["image"]) <= 1).all((1, 2, 3)),
        "text": random_text,
        "batch": (batch["text"][:, 0] != row + VOCABULARY) & ~random_text,
    }


@pytest.mark.parametrize("probability", [0.05, 0.3, 0.8])
@pytest.mark.parametrize("kind", ["image", "text", "image_text"])
def test_images_and_texts_are_corrupted_with_probability_p(kind, probability):
    found = rates(corrupted(kind, probability))
    for part, rows in found.items():
        if part in kind.split("_"):
            assert stats.binomtest(int(rows.sum()), BATCH, probability).pvalue > P_VALUE
        else:
            assert not rows.any()
    if kind == "image_text":
        both = int((found["image"] & found["text"]).sum())
        assert stats.binomtest(both, BATCH, probability**2).pvalue > P_VALUE


@pytest.mark.parametrize("probability", [0.05, 0.3, 1.0])
def test_exactly_p_of_the_batch_is_misaligned_and_no_text_is_lost(probability):
    batch = corrupted("batch", probability)
    assert rates(batch)["batch"].sum() == round(probability * BATCH)
    assert sorted(batch["text"][:, 0]) == list(np.arange(BATCH) + VOCABULARY)
    np.testing.assert_array_equal(batch["image"], clean()["image"])


def test_all_three():
    found = rates(corrupted("image_text_batch", 0.3))
    assert stats.binomtest(int(found["image"].sum()), BATCH, 0.3).pvalue > P_VALUE
    assert stats.binomtest(int(found["text"].sum()), BATCH, 0.3).pvalue > P_VALUE
    # A moved text that is itself random counts as text.
    assert stats.binomtest(int(found["batch"].sum()), BATCH, 0.3 * 0.7).pvalue > P_VALUE


@pytest.mark.parametrize("kind", ["image", "text", "batch", "image_text", "image_text_batch"])
def test_probability_zero_changes_nothing_and_one_everything(kind):
    for name, value in corrupted(kind, 0.0).items():
        np.testing.assert_array_equal(value, clean()[name])
    found = rates(corrupted(kind, 1.0))
    assert all(found[part].all() for part in kind.split("_") if not (part == "batch" and "text" in kind))


def test_the_seed_decides():
    first, again, other = (corrupted("image_text_batch", 0.5, seed) for seed in (1, 1, 2))
    for name in first:
        np.testing.assert_array_equal(first[name], again[name])
    assert (first["text"] != other["text"]).any()
    assert (rates(first)["image"] != rates(other)["image"]).any()


def test_noise_is_uniform():
    noise = corrupted("image", 1.0)["image"]
    assert stats.kstest(noise.ravel(), stats.uniform(-1, 2).cdf).pvalue > P_VALUE
    batch = {"image": tf.zeros([500, 4, 4, 3], tf.uint8), "text": tf.zeros([500, 2], tf.int32)}
    pixels = Corruption("image", 1.0)(batch, [0, 1])["image"]
    assert pixels.dtype == tf.uint8
    assert stats.chisquare(np.bincount(pixels.numpy().ravel(), minlength=256)).pvalue > P_VALUE


@pytest.mark.parametrize(("eos_id", "pad_id"), [(1, 1), (1, 0), (7, 0)])
def test_random_texts_have_uniform_lengths_and_tokens(eos_id, pad_id):
    texts = corrupted("text", 1.0, eos_id=eos_id, pad_id=pad_id)["text"]
    end = (texts == eos_id).argmax(1)
    assert stats.chisquare(np.bincount(end, minlength=LENGTH)[1:]).pvalue > P_VALUE
    assert (texts[np.arange(BATCH), end] == eos_id).all()
    position = np.arange(LENGTH)[None]
    assert (texts[position > end[:, None]] == pad_id).all()
    counts = np.bincount(texts[position < end[:, None]], minlength=VOCABULARY)
    special = sorted({eos_id, pad_id})
    assert (counts[special] == 0).all()
    assert stats.chisquare(np.delete(counts, special)).pvalue > P_VALUE


def test_static_shapes_survive_a_pipeline():
    dataset = tf.data.Dataset.from_tensor_slices(clean()).batch(8, drop_remainder=True)
    corruption = Corruption("image_text_batch", 0.5, vocab_size=VOCABULARY)
    mapped = dataset.enumerate().map(lambda step, batch: corruption(batch, tf.stack([tf.constant(0, tf.int64), step])))
    assert mapped.element_spec == dataset.element_spec


def test_errors_name_the_value():
    with pytest.raises(ValueError, match="'caption'"):
        Corruption("caption", 0.1)
    with pytest.raises(ValueError, match=r"1\.5"):
        Corruption("image", 1.5)
    with pytest.raises(ValueError, match="vocabulary"):
        Corruption("text", 0.5)
    with pytest.raises(ValueError, match="no 'image'"):
        Corruption("image", 0.5)({"image_embedding": tf.zeros([2, 3]), "text": tf.zeros([2, 3], tf.int32)}, [0, 0])
