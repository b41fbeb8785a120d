"""Processes that would make batches of different runs are refused when the run starts, by name and value."""

import pytest

from siglip_tf.data.order.position import check_one_kernel
from siglip_tf.data.pipeline import TrainingData
from siglip_tf.data.service.identity import check_workers, identity
from tests.data.memory_source import MemorySource, tiny_preprocessing

PREPROCESSING = tiny_preprocessing()


def described(host, resize="any", **changes):
    data = TrainingData(MemorySource(9), PREPROCESSING, 4, **changes)
    return {"host": host, "identity": identity(data), "resize": resize}


def test_workers_that_differ_are_named():
    check_workers([described("a"), described("b")])
    cases = [
        (
            [described("a"), described("b", seed=3)],
            r"same seed. Received: 0 on worker 0 \(a\), 3 on worker 1 \(b\)",
        ),
        ([described("a"), described("b"), described("c", window_bytes=5)], r"settings of batches.*worker 2 \(c\)"),
        (
            [described("a", "compiled"), described("b", "tensorflow")],
            r"compiled on worker 0 \(a\), tensorflow on worker 1 \(b\). Install a C compiler on every machine",
        ),
    ]
    for workers, message in cases:
        with pytest.raises(ValueError, match=message):
            check_workers(workers)
    check_one_kernel({})
    check_one_kernel({"a": None, "b": "compiled", "c": "compiled"})
