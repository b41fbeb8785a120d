"""Batches with groups and equal captions: `fit` trains on them, reports their counts, and refuses wrong ones."""

import numpy as np
import pytest

from tests.losses import dense
from tests.losses.test_pair_labels import autodiff, masks
from tests.models import small


@pytest.mark.parametrize("everything", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_loss_and_counts_of_a_batch_equal_float64(everything):
    batch = small.batch(8)
    batch["text"][[3, 5]] = batch["text"][0]
    batch["group"] = np.array([7, 1, 7, 2, 2, 3, 4, 7])
    captions = [tuple(row) for row in batch["text"]]
    for loss in ("sigmoid", "softmax") if everything else ("sigmoid",):
        for same_group, equal_captions in (("positive", "ignore"), ("ignore", "negative"), ("negative", "negative")):
            if not everything and (same_group, equal_captions) == ("ignore", "negative"):
                continue
            model = small.model(loss=loss, same_group=same_group, equal_captions=equal_captions, tile_size=3)
            model.compile("sgd", run_eagerly=True)
            embeddings = {k: np.asarray(v) for k, v in model({k: batch[k] for k in ("image", "text")}).items()}
            positive, ignored = masks(batch["group"], same_group, captions, equal_captions)
            sides = embeddings["image_embedding"], embeddings["text_embedding"]
            t = np.asarray(model.log_temperature)
            b = np.asarray(model.bias) if loss == "sigmoid" else 0
            expected, *_ = autodiff(loss, *sides, positive, ignored, t, b)
            logs = model.train_on_batch(batch, return_dict=True)
            assert dense.relative_error(logs["loss"], expected) < 1e-5
            if (same_group, equal_captions) == ("negative", "negative"):
                assert "positive_pairs" not in logs
                continue
            others = positive & ~np.eye(8, dtype=bool)
            assert (logs["positive_pairs"], logs["ignored_pairs"]) == (others.sum(), ignored.sum())
            logits = np.exp(t) * sides[0].astype(np.float64) @ sides[1].T + b
            np.testing.assert_allclose(logs["positive_logit"], logits[positive].mean(), rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(
                logs["negative_logit"], logits[~positive & ~ignored].mean(), rtol=1e-4, atol=1e-4
            )


def test_wrong_groups_are_refused_before_the_first_step():
    batch = small.batch(8)
    model = small.model()
    model.compile("sgd", run_eagerly=True)
    cases = [
        (np.linspace(0, 1, 8, dtype=np.float32), "'group' as int64.*float32"),
        (np.zeros((8, 1), np.int64), r"'group' of shape \(batch,\).*\(8, 1\)"),
        (np.array([0, 1, 2, -5, 1, 1, 1, 1]), "from 0 on. Received: -5"),
    ]
    for group, message in cases:
        with pytest.raises(ValueError, match=message):
            model.fit({**batch, "group": group}, batch_size=8, verbose=0)
    for options in ({"same_group": "same"}, {"equal_captions": None}, {"loss_precision": "half"}):
        with pytest.raises(ValueError, match=f"{next(iter(options))[-9:]}.*Received: {next(iter(options.values()))!r}"):
            small.model(**options)
