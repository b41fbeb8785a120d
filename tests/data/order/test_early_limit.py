"""Data without usable records ends with an error although no batch ever forms."""

import pytest
import tensorflow as tf

from siglip_tf.data.embeddings.writer import EmbeddingWriter
from siglip_tf.data.evaluation_data import EvaluationData
from siglip_tf.data.order.bad_records import Cause, TooManyBadRecordsError
from siglip_tf.data.order.mixture import Mixture
from siglip_tf.data.order.position import PositionTracker
from siglip_tf.data.pipeline import TrainingData
from tests.data.memory_source import MemorySource, tiny_preprocessing

FAULTS = {
    "missing_image": {"image": b""},
    "undecodable_image": {"image": b"not an image"},
    "missing_caption": {"captions": ["  "]},
    "not_utf8": {"captions": [b"caf\xe9"]},
}


@pytest.fixture(scope="module")
def preprocessing():
    return tiny_preprocessing()


def _broken(size: int, fault: str, sound: tuple[int, ...] = (), **options) -> MemorySource:
    return MemorySource(size, {i: FAULTS[fault] for i in range(size) if i not in sound}, **options)


def _failure(data) -> str:
    with pytest.raises(tf.errors.OpError) as caught:
        for _ in data.dataset().take(3):
            pass
    error = TooManyBadRecordsError.within(caught.value)
    assert isinstance(error, ValueError)
    return str(error)


def _slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("size", "fault", "of_source", "options", "told"),
    [
        _slow(90, "not_utf8", {}, {}, "64 of 64 records are broken (64 not_utf8), more than 1.00% of"),
        # Read by runs, in two streams; a few records.
        (90, "not_utf8", {"runs": [0, 30, 90]}, {"streams": 2}, "64 of 64 records are broken (64 not_utf8), more than"),
        _slow(5, "missing_image", {}, {}, "5 of 5"),
        # One sound record cannot fill a large batch in reasonable time.
        (90, "missing_image", {"sound": (7,)}, {"global_batch": 512, "deterministic": False}, "63 of 64"),
        # Every record had its chance: no limit makes this data usable.
        _slow(90, "missing_image", {}, {"bad_record_limit": 1e6}, "64 of 64"),
    ],
)
def test_endless_data_without_one_usable_record(preprocessing, size, fault, of_source, options, told):
    data = TrainingData(_broken(size, fault, **of_source), preprocessing, **{"global_batch": 16, **options})
    assert _failure(data).startswith(told)


@pytest.mark.slow
def test_one_member_of_a_mixture(preprocessing):
    members = [MemorySource(50, name="sound"), _broken(50, "undecodable_image", name="broken")]
    data = TrainingData(Mixture(members, [0.5, 0.5]), preprocessing, 512)
    assert "undecodable_image), more than 1.00% of the records" in _failure(data)
    # Half of the data is allowed to be broken here, and training goes on.
    data = TrainingData(Mixture(members, [0.5, 0.5]), preprocessing, 64, bad_record_limit=0.9)
    assert len(list(data.dataset().take(3))) == 3


@pytest.mark.slow
def test_a_resumed_run_whose_data_is_gone(preprocessing):
    data = TrainingData(MemorySource(90), preprocessing, 16)
    data.dataset()
    state = data.state(0) | {"step": 100, "passed": {"0": 1600}}
    gone = TrainingData(_broken(90, "missing_image"), preprocessing, 16)
    gone.restore(state)
    assert "64 missing_image" in _failure(gone)


def test_evaluation_data(preprocessing):
    assert _failure(EvaluationData(_broken(300, "missing_image"), preprocessing, 16)).startswith("64 of 64")
    assert _failure(EvaluationData(_broken(30, "missing_image"), preprocessing, 16)).startswith("30 of 30")


def test_stored_embeddings(preprocessing, tmp_path):
    def writer(folder, **options):
        source = _broken(200, "missing_image")
        options = {"tower": "t", "embed_dim": 3, "batch_size": 8, "shard_records": 200, **options}
        return EmbeddingWriter(str(tmp_path / folder), source, preprocessing, lambda pixels: pixels[:, 0, 0], **options)

    with pytest.raises(TooManyBadRecordsError, match=r"^64 of 64 records are broken \(64 missing_image\)"):
        writer("a").run()
    with pytest.raises(ValueError, match=r"holds no embeddings: 9 of 9 records are broken \(9 missing_image\)"):
        EmbeddingWriter(
            str(tmp_path / "b"),
            _broken(9, "missing_image"),
            preprocessing,
            lambda pixels: pixels[:, 0, 0],
            tower="t",
            embed_dim=3,
            batch_size=4,
            shard_records=9,
            bad_record_limit=10.0,
        ).run()


def test_what_the_tracker_takes_for_broken():
    """Absent slots that may wait for their batch prove nothing; more than those do."""

    def tracker(limit):
        made = PositionTracker(lambda _, slots: [Cause.UNREADABLE] * len(slots), limit)
        made.start(0, {0: 0}, {})
        return made

    def sound(slots):
        return [None] * len(slots)

    def broken(slots):
        return [Cause.MISSING_IMAGE for _ in slots]

    healthy = tracker(0.01)
    for decoded in range(0, 5000, 64):
        healthy.handed_out(0, decoded, sound, 4096, 10**6)
    healthy.arrived(0, list(range(4096)))
    healthy.handed_out(0, 4096 + 4096 + 63, broken, 4096, 10**6)
    with pytest.raises(TooManyBadRecordsError, match=r"^64 of 64 records are broken \(64 missing_image\)"):
        healthy.handed_out(0, 4096 + 4200, broken, 4096, 10**6)
    # After a million slots 64 more are no verdict: the disk is gone, and ten thousand must fail first.
    long_run = tracker(0.01)
    long_run.start(0, {0: 10**6}, {})
    for decoded in range(0, 10_000, 64):
        long_run.handed_out(0, 10**6 + decoded, broken, 32, 10**6)
    with pytest.raises(TooManyBadRecordsError, match=r"of \d{5} records are broken \(of 64 examined: 64 missing_image"):
        for decoded in range(10_000, 70_000, 64):
            long_run.handed_out(0, 10**6 + decoded, broken, 32, 10**6)
