"""Zero-shot accuracy against big_vision's evaluator (golden) and scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, recall_score, top_k_accuracy_score

from siglip_tf.evaluation.zero_shot import average_prompts, class_embeddings, make_prompts, present_classes, zero_shot
from tests.evaluation.example_embeddings import unit, zero_shot_example


@pytest.fixture
def example():
    images, prompts, templates, labels, several = zero_shot_example()
    return images, average_prompts(prompts, templates), labels, several


def test_equals_big_vision(example):
    """Golden: big_vision `discriminative_classifier.py`, its averaging and its any-label count."""
    images, classes, labels, several = example
    np.testing.assert_allclose(classes[3, :4], [0.10804117, -0.19368003, -0.01035062, 0.2145191], atol=1e-7)
    assert zero_shot(images, classes, labels).top1 == 615 / 1003
    result = zero_shot(images, classes, several)
    # big_vision's count has the unlabelled images in its denominator; ReaL's definition leaves them out.
    assert (result.top1, result.images, result.left_out) == (599 / (1003 - 47), 956, 47)


def test_equals_scikit_learn(example):
    images, classes, labels, _ = example
    result = zero_shot(images, classes, labels)
    scores = images.astype(float) @ classes.T.astype(float)
    assert result.top5 == top_k_accuracy_score(labels, scores, k=5, labels=np.arange(60))
    assert result.top1 == accuracy_score(labels, scores.argmax(axis=1))
    recalls = recall_score(labels, scores.argmax(axis=1), average=None)
    np.testing.assert_allclose([result.per_class[c] for c in range(60)], recalls, rtol=1e-15)
    assert result.mean_per_class == pytest.approx(recalls.mean(), abs=1e-15)
    np.testing.assert_allclose(result.scores, -np.sort(-scores, axis=1)[:, :5], atol=1e-12)


@pytest.mark.parametrize("chunk_size", [1, 59, 60, 61, 1002, 1003])
def test_chunks_change_nothing(example, chunk_size):
    images, classes, labels, _ = example
    np.testing.assert_array_equal(zero_shot(images, classes, labels, chunk_size=chunk_size).top,
                                  zero_shot(images, classes, labels).top)  # fmt: skip


def test_class_subset(example):
    images, classes, labels, _ = example
    subset = np.arange(0, 60, 3)
    kept = np.isin(labels, subset)
    result = zero_shot(images[kept], classes, labels[kept], class_subset=subset[::-1])
    scores = images[kept].astype(float) @ classes[subset].T.astype(float)
    assert result.top1 == accuracy_score(labels[kept], subset[scores.argmax(axis=1)])
    assert np.isin(result.top, subset).all()
    with pytest.raises(ValueError, match="none of them in `class_subset`"):
        zero_shot(images, classes, labels, class_subset=subset)


def test_present_classes():
    np.testing.assert_array_equal(present_classes(np.array([[5, -1], [2, 5]])), [2, 5])


def test_ties_go_to_the_lower_class():
    classes = unit(np.array([[1.0, 0], [1, 0], [0, 1]]))
    images = classes[[0, 1]]
    assert zero_shot(images, classes, np.array([0, 1])).top.tolist() == [[0, 1, 2], [0, 1, 2]]
    assert zero_shot(images, classes, np.array([0, 1])).top1 == 0.5


def test_prompts_are_canonical():
    assert make_prompts(["Great_White  Shark!"], ["A photo of a {}.", "{}"]) == [
        "a photo of a great white shark",
        "great white shark",
    ]
    assert make_prompts(["A_b"], ["({})"], canonical=False) == ["(A_b)"]


def test_average_is_of_unit_vectors(rng):
    """Whatever length the encoder gives a prompt, each weighs the same; float64 numpy as oracle."""
    prompts = rng.normal(size=(12, 8)) * rng.uniform(0.1, 10, (12, 1))
    expected = (prompts / np.linalg.norm(prompts, axis=1, keepdims=True)).reshape(4, 3, 8).mean(axis=1)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    table = {}

    def embed(texts):
        table.update(zip(texts, prompts, strict=True))
        return prompts

    found = class_embeddings(embed, list("abcd"), ["x {}", "y {}", "{}"])
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert list(table) == [t.format(c) for c in "abcd" for t in ("x {}", "y {}", "{}")]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make_prompts([], ["{}"]), "Received: 0 and 1"),
        (lambda: make_prompts(["a"], ["photo"]), "exactly one `{}`"),
        (lambda: make_prompts(["a", "!?"], ["{}"]), "Class 1 has an empty name"),
        (lambda: average_prompts(np.eye(4), 3), "not a multiple of 3"),
        (lambda: zero_shot(np.eye(3), np.eye(3), np.array([0, 1, 3])), "must lie in 0..2"),
        (lambda: zero_shot(np.eye(3), np.eye(3), np.array([0, 1])), "`labels` must be"),
        (lambda: zero_shot(np.eye(3), np.eye(3), np.full(3, -1)), "No image has a label"),
        (lambda: zero_shot(np.eye(3), np.eye(4), np.arange(3)), "differ in width"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
