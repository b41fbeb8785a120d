"""Pictures that are kept in memory make the same batches and the same account of broken records."""

import numpy as np
import pytest
import tensorflow as tf

from siglip_tf.data import Augmentation, ImagePreprocessing
from siglip_tf.data.pipeline import TrainingData
from siglip_tf.data.preprocessing import Preprocessing
from siglip_tf.data.sources import kept_pictures
from siglip_tf.data.sources.kept_pictures import KeptPictures, can_keep
from tests.data.memory_source import MemorySource, tiny_preprocessing
from tests.experiments.test_advice import png


def test_batches_are_those_of_the_source(monkeypatch):
    random = np.random.default_rng(0)
    pictures = [random.integers(0, 256, (9, 7, 4), dtype=np.uint8) for _ in range(12)]
    records = {i: {"image": png(picture, "RGBA")} for i, picture in enumerate(pictures)}
    records[5] = {"image": b"torn"}
    records[8] |= {"captions": []}
    source = MemorySource(12, records, captions=3)
    augmentation = Augmentation(shift=0.1, color=0.3)
    image = ImagePreprocessing(6, method="bicubic_antialias", alpha="white")
    preprocessing = Preprocessing(image, tiny_preprocessing().text)
    kept = KeptPictures(source, image)
    assert (kept.size, kept.fingerprint, kept.locate(3)) == (12, source.fingerprint, source.locate(3))
    found = []
    for each in (source, kept):
        options = {"extra_fields": ("id", "label", "group"), "augmentation": augmentation, "bad_record_limit": 0.5}
        data = TrainingData(each, preprocessing, 4, streams=2, **options)
        batches = list(data.dataset().take(6).as_numpy_iterator())
        found.append((batches, data.accounting(6)))
    resumed = TrainingData(kept, preprocessing, 4, **options)
    resumed.restore(data.state(3))
    for one, other in zip(resumed.dataset().take(3).as_numpy_iterator(), batches[3:], strict=True):
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])
    assert found[0][1] == found[1][1] and found[0][1]["skipped"] > 1
    for one, other in zip(found[0][0], found[1][0], strict=True):
        assert one.keys() == other.keys() == {"image", "text", "id", "label", "group"}
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])
    assert can_keep(source, image, crops=False) and not can_keep(source, image, crops=True)
    monkeypatch.setattr(kept_pictures, "MOST_BYTES", 1000)
    assert not can_keep(source, image, crops=False)
    assert not can_keep(MemorySource(12, {}, [0, 6, 12]), image, crops=False)


def test_pictures_of_which_too_many_are_broken_end_the_run():
    nothing = {i: {"image": b"torn"} for i in range(300)}
    for broken in (nothing, {i: nothing[i] for i in range(299)}):
        kept = KeptPictures(MemorySource(300, broken), ImagePreprocessing(4))
        with pytest.raises(tf.errors.OpError, match="TooManyBadRecordsError"):
            next(iter(TrainingData(kept, tiny_preprocessing(), 8).dataset()))
    with pytest.raises(ValueError, match="memory has no 'language'. Its examples hold .'id', 'label'."):
        kept = KeptPictures(MemorySource(3), ImagePreprocessing(4))
        TrainingData(kept, tiny_preprocessing(), 2, extra_fields=("language",)).dataset()
