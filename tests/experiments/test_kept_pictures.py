"""Pictures that are kept in memory make the same batches and the same account of broken records."""

import numpy as np

from siglip_tf.data import ImagePreprocessing
from siglip_tf.data.pipeline import TrainingData
from siglip_tf.data.preprocessing import Preprocessing
from siglip_tf.experiments import kept_pictures
from siglip_tf.experiments.kept_pictures import KeptPictures, can_keep
from tests.data.memory_source import MemorySource, tiny_preprocessing
from tests.experiments.test_advice import png


def test_batches_are_those_of_the_source(monkeypatch):
    random = np.random.default_rng(0)
    pictures = [random.integers(0, 256, (9, 7, 4), dtype=np.uint8) for _ in range(12)]
    records = {i: {"image": png(picture, "RGBA")} for i, picture in enumerate(pictures)}
    records[5] = {"image": b"torn"}
    records[8] |= {"captions": []}
    source = MemorySource(12, records)
    for method in ("big_vision", "bicubic_antialias"):
        image = ImagePreprocessing(6, method=method, alpha="white")
        preprocessing = Preprocessing(image, tiny_preprocessing().text)
        kept = KeptPictures(source, image)
        assert (kept.size, kept.fingerprint, kept.locate(3)) == (12, source.fingerprint, source.locate(3))
        found = []
        for each in (source, kept):
            data = TrainingData(each, preprocessing, 4, bad_record_limit=0.5)
            batches = list(data.dataset().take(6).as_numpy_iterator())
            found.append((batches, data.accounting(6)))
        assert found[0][1] == found[1][1] and found[0][1]["skipped"] > 1
        for one, other in zip(found[0][0], found[1][0], strict=True):
            for key in ("image", "text"):
                np.testing.assert_array_equal(one[key], other[key])
    assert can_keep(source, image, crops=False) and not can_keep(source, image, crops=True)
    monkeypatch.setattr(kept_pictures, "MOST_BYTES", 1000)
    assert not can_keep(source, image, crops=False)
    assert not can_keep(MemorySource(12, {}, [0, 6, 12]), image, crops=False)
