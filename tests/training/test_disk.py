"""A full disk ends a run with a sentence, and the run continues from its last good checkpoint."""

import re

import numpy as np
import pytest

from siglip_tf.storage import StorageError, free_bytes
from siglip_tf.training import Resume, train
from tests.training.small_run import BATCH, batches, make_model, weights

PAGE = 4096


def run(directory, steps, asynchronous=False):
    model = make_model()
    resume = Resume(str(directory), every=5, asynchronous=asynchronous, say=lambda text: None)
    options = {"global_batch_size": BATCH, "log_every": 100, "tensorboard": False, "progress": False}
    train(model, batches, steps=steps, resume=resume, **options)
    return model


@pytest.mark.parametrize(
    ("pages", "asynchronous"),
    [
        # Too little for the variables; enough for them but not for what stands beside them; writing breaks off midway.
        (5, True),
        pytest.param(1, False, marks=pytest.mark.slow),
        pytest.param(1, True, marks=pytest.mark.slow),
        pytest.param(3, False, marks=pytest.mark.slow),
        pytest.param(6, False, marks=pytest.mark.slow),
        pytest.param(2, True, marks=pytest.mark.slow),
        pytest.param(5, False, marks=pytest.mark.slow),
    ],
)
def test_a_full_disk(small_disk, tmp_path, pages, asynchronous):
    run(small_disk / "run", 5, asynchronous)
    filler = small_disk / "filler"
    filler.write_bytes(b"x" * (free_bytes(small_disk) - (pages + 1) * PAGE))  # one page for the owner's mark
    words = r"Cannot write .*checkpoints.*the disk is full\. [\d,]+ bytes are needed; [\d,]+ bytes are free\. Free"
    with pytest.raises(StorageError, match=words) as fault:
        run(small_disk / "run", 10, asynchronous)
    assert str(fault.value).endswith("The last good checkpoint is step 5.")
    filler.unlink()
    model = run(small_disk / "run", 10, asynchronous)
    for mine, theirs in zip(weights(model), weights(run(tmp_path / "whole", 10)), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_a_folder_that_nobody_may_write_to(tmp_path, monkeypatch):
    def refuses(path):
        raise OSError(30, "Read-only file system", path)

    monkeypatch.setattr("tensorflow.io.gfile.makedirs", refuses)
    with pytest.raises(
        StorageError, match=f"Cannot write {re.escape(str(tmp_path))}: the file system is read-only. Name"
    ):
        Resume(str(tmp_path)).restore(make_model())
