"""Recalls against big_vision's evaluator (golden), numpy, and ties worked out by hand."""

import tracemalloc

import numpy as np
import pytest

from siglip_tf.evaluation.retrieval import retrieval
from tests.evaluation.example_embeddings import retrieval_example, unit


def test_equals_big_vision():
    """Golden: big_vision `image_text_retrieval.py` on the same embeddings."""
    result = retrieval(*retrieval_example())
    assert result.image_to_text == {1: 0.758, 5: 0.938, 10: 0.958}
    assert result.text_to_image == {1: 0.6095051445369917, 5: 0.8456638902498775, 10: 0.8995590396864283}
    assert result.to_dict()["image_to_text_R@5"] == 0.938


@pytest.mark.parametrize("chunk_size", [37, 499, 500, 5000])
def test_chunks_change_nothing(chunk_size):
    whole, chunked = (retrieval(*retrieval_example(), chunk_size=c) for c in (None, chunk_size))
    np.testing.assert_array_equal(whole.image_ranks, chunked.image_ranks)
    np.testing.assert_array_equal(whole.text_ranks, chunked.text_ranks)


def test_ranks_equal_a_full_sort():
    images, texts, owner = retrieval_example()
    scores = images.astype(float) @ texts.T.astype(float)
    result = retrieval(images, texts, owner)
    image_order = np.argsort(-scores.T, axis=1, kind="stable")
    np.testing.assert_array_equal(result.text_ranks, (image_order == owner[:, None]).argmax(axis=1))
    text_order = np.argsort(-scores, axis=1, kind="stable")
    np.testing.assert_array_equal(result.image_ranks, (owner[text_order] == np.arange(500)[:, None]).argmax(axis=1))


def test_scores_are_never_all_in_memory(rng):
    """6,000 x 6,000 scores would be 144 MB."""
    images, texts = (unit(rng.normal(size=(6_000, 8))) for _ in range(2))
    tracemalloc.start()
    retrieval(images, texts)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60e6


def test_same_caption_for_two_images():
    """Texts 0 and 1 are equal but belong to images 0 and 1: the lower index is first, so image 1 comes second."""
    images = np.eye(3, dtype=np.float32)
    texts = unit(np.array([[1.0, 1, 0], [1, 1, 0], [0, 0, 1]]))
    result = retrieval(images, texts, recall_at=(1, 2))
    np.testing.assert_array_equal(result.image_ranks, [0, 1, 0])
    np.testing.assert_array_equal(result.text_ranks, [0, 1, 0])
    assert result.image_to_text == {1: 2 / 3, 2: 1.0}


def test_fewer_candidates_than_k():
    result = retrieval(np.eye(2), np.eye(2)[[0, 1, 1]], [0, 1, 1])
    assert set(result.image_to_text.values()) | set(result.text_to_image.values()) == {1.0}


@pytest.mark.parametrize(
    ("images", "texts", "owner", "message"),
    [
        (np.eye(2), np.eye(3), None, "differ in width"),
        (np.eye(3)[:2], np.eye(3), None, "say which image each text describes"),
        (np.eye(3), np.eye(3), [0, 1, 3], "must lie in 0..2"),
        (np.eye(3), np.eye(3), [0, 1, 1], "1 images have no caption, the first is image 2"),
        (np.eye(3), np.eye(3), [0.0, 1, 2], "int"),
    ],
)
def test_bad_input_is_named(images, texts, owner, message):
    with pytest.raises(ValueError, match=message):
        retrieval(images, texts, owner)
