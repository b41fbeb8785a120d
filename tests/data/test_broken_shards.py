"""Shards of which one in a hundred records is broken, in every way there is, train through and are accounted for."""

import json

import pytest
import tensorflow as tf

from siglip_tf.data.inspection import inspect
from siglip_tf.data.pipeline import TrainingData
from siglip_tf.data.sources import TarSource, TFRecordSource
from tests.data.broken_shards import write_records, write_tar
from tests.data.memory_source import tiny_preprocessing

SOUND = 240
KINDS = {"tar": (write_tar, TarSource), "tfrecord": (write_records, TFRecordSource)}


@pytest.fixture(scope="module")
def preprocessing():
    return tiny_preprocessing()


def _slow(*values):
    return pytest.param(values, marks=pytest.mark.slow)


@pytest.fixture(
    scope="module", params=[("tar", True), _slow("tfrecord", False), _slow("tar", False), _slow("tfrecord", True)]
)
def broken(request, tmp_path_factory):
    """A source, by records or by runs, and its broken records by cause."""
    kind, random_access = request.param
    folder = tmp_path_factory.mktemp(kind)
    write, source = KINDS[kind]
    causes = write(folder, SOUND)
    return source(str(folder), random_access=random_access), causes


@pytest.mark.slow
def test_training_accounts_for_every_record(broken, preprocessing, tmp_path):
    source, causes = broken
    skipped = sum(causes.values())
    assert 0.008 < skipped / source.size < 0.013
    report = tmp_path / "bad.jsonl"
    options = {"bad_record_limit": 0.02, "report": str(report), "extra_fields": ["id"], "window_bytes": 200_000}
    # One batch holds each sound record of an epoch once.
    sound = source.size - skipped
    data = TrainingData(source, preprocessing, sound, **options)
    ids = [batch["id"].numpy().tolist() for batch in data.dataset().take(2)]
    assert len(set(ids[0])) == sound and {*ids[0]} == {*ids[1]}
    for epochs in (1, 2):
        account = data.accounting(epochs)
        assert account["used"] == epochs * sound
        # What is broken behind the epoch's last sound record is met with the next epoch.
        assert account["read"] == account["used"] + account["skipped"] <= epochs * source.size
        assert epochs * source.size - account["read"] < 30
    lines = [json.loads(line) for line in report.read_text().splitlines()]
    named = {(line["shard"], line["offset"]): line["cause"] for line in lines}
    assert len(lines) == len(named) == skipped
    assert {cause: [*named.values()].count(cause) for cause in causes} == causes
    by_shard = {shard.rpartition("/")[2].partition(".")[0]: cause for (shard, _), cause in named.items()}
    assert by_shard["00003"] == "torn_shard" and by_shard["00004"] == "empty_shard"


@pytest.mark.slow
def test_a_lower_limit_is_an_error_that_says_why(tmp_path, preprocessing):
    write_tar(tmp_path, SOUND)
    data = TrainingData(TarSource(str(tmp_path)), preprocessing, 60, bad_record_limit=3)
    with pytest.raises(tf.errors.OpError, match="records are broken .*more than 3 records.*mend the data, or raise"):
        for _ in data.dataset().take(20):
            pass


@pytest.mark.slow
def test_inspection_counts_the_same(broken, preprocessing):
    source, causes = broken
    found = inspect(source, preprocessing, samples=3)
    assert (found.read, found.skipped) == (source.size, causes)
    assert found.used == found.read - sum(causes.values()) == len(found.heights)
    assert len(found.broken) == sum(causes.values()) and len(found.samples) == 3
