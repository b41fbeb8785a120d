"""Order, position and accounting of the training pipeline, against sequences worked out here."""

import collections
import itertools
import json

import numpy as np
import pytest
import tensorflow as tf

from siglip_tf.data.embeddings.writer import EmbeddingWriter
from siglip_tf.data.evaluation_data import EvaluationData
from siglip_tf.data.images.naflex import NaFlexPreprocessing
from siglip_tf.data.inspection import inspect
from siglip_tf.data.order.mixture import BLOCK, Mixture
from siglip_tf.data.order.position import PositionTracker, merge_states
from siglip_tf.data.pipeline import TrainingData, training_dataset
from siglip_tf.data.preprocessing import ImagePreprocessing, Preprocessing
from siglip_tf.models.batch import check_images
from tests.data.memory_source import MemorySource, encode, tiny_preprocessing
from tests.replicas import two_replicas

BOMB = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\1\0\0\0\1\0\0\x08\2\0\0\0"
BROKEN = {
    3: {"image": b"not an image"},
    11: {"captions": []},
    12: {"captions": ["  ", ""]},
    13: {"captions": [b"caf\xe9"]},
    27: {"image": BOMB},
    39: {"image": encode(5)[:40]},
    40: {"image": b""},
}
RUNS = [0, 7, 20, 21, 40, 47]


@pytest.fixture(scope="module")
def preprocessing():
    return tiny_preprocessing()


def _source(kind: str):
    if kind == "mixture":
        return Mixture(
            [MemorySource(47, BROKEN), MemorySource(20, name="other"), MemorySource(30, runs=[0, 9, 30], name="third")],
            [0.5, 0.3, 0.2],
        )
    return MemorySource(47, BROKEN if "broken" in kind else {}, RUNS if "runs" in kind else None)


def _data(source, preprocessing, batch=8, **options) -> TrainingData:
    options = {"bad_record_limit": 0.5, "extra_fields": ["id"], "window_bytes": 4000, **options}
    return TrainingData(source, preprocessing, batch, **options)


def _ids(dataset, batches: int) -> list[list[str]]:
    return [[i.decode() for i in batch["id"].numpy()] for batch in dataset.take(batches)]


def _flat(lists) -> list:
    return list(itertools.chain.from_iterable(lists))


def _across(strategy, distributed) -> list[str]:
    """The ids of a distributed batch, replica after replica."""
    return _flat([i.decode() for i in part.numpy()] for part in strategy.experimental_local_results(distributed["id"]))


def _context(worker: int, workers: int, replicas: int) -> tf.distribute.InputContext:
    return tf.distribute.InputContext(workers, worker, replicas)


def _workers(make, workers: int, batches: int, state=None):
    """Global batches of several workers, and what each of them holds."""
    parts, data = [], []
    for worker in range(workers):
        data.append(make())
        if state is not None:
            data[-1].restore(state)
        parts.append(_ids(data[-1].dataset(_context(worker, workers, workers)), batches))
    return [_flat(step) for step in zip(*parts, strict=True)], data


def test_batches(preprocessing):
    dataset = training_dataset(MemorySource(47), preprocessing, 8, extra_fields=["id", "label"])
    batch = next(iter(dataset))
    assert {key: (spec.shape.as_list(), spec.dtype) for key, spec in dataset.element_spec.items()} == {
        "image": ([8, 4, 4, 3], tf.uint8),
        "text": ([8, 6], tf.int32),
        "id": ([8], tf.string),
        "label": ([8], tf.int32),
    }
    records = [int(name.decode().split("-")[1]) for name in batch["id"].numpy()]
    np.testing.assert_array_equal(batch["label"], np.array(records) % 10)
    np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], records)
    np.testing.assert_array_equal(batch["text"], preprocessing.text([f"0 says memory {i}" for i in records]))


@pytest.mark.parametrize(
    ("kind", "workers"), [("runs", 1), *(pytest.param(kind, 2, marks=pytest.mark.slow) for kind in ("plain", "runs"))]
)
def test_each_epoch_holds_each_record_once(preprocessing, kind, workers):
    steps, _ = _workers(lambda: _data(_source(kind), preprocessing), workers, 18)
    # In the order of slots: the workers' pairs alternate.
    names = [
        step[row + worker * 8 // workers] for step in steps for row in range(8 // workers) for worker in range(workers)
    ]
    for epoch in range(2):
        assert sorted(names[epoch * 47 : (epoch + 1) * 47]) == sorted(f"memory-{i}" for i in range(47))


@pytest.mark.parametrize(
    ("kind", "workers", "steps"),
    [
        ("runs, broken", 1, (9,)),
        pytest.param("mixture", 1, (7,), marks=pytest.mark.slow),
        pytest.param("broken", 1, (13,), marks=pytest.mark.slow),
        pytest.param("runs, broken", 2, (9,), marks=pytest.mark.slow),
        pytest.param("plain", 1, (6,), marks=pytest.mark.slow),
        pytest.param("runs", 1, (5,), marks=pytest.mark.slow),
        pytest.param("runs, broken", 1, (1, 14), marks=pytest.mark.slow),
        pytest.param("mixture", 2, (14,), marks=pytest.mark.slow),
    ],
)
def test_a_resumed_run_continues_the_uninterrupted_sequence(preprocessing, kind, workers, steps):
    """Killed at any step, whatever was prefetched then."""
    whole, data = _workers(lambda: _data(_source(kind), preprocessing), workers, 20)
    for step in steps:
        state = json.loads(json.dumps(merge_states([part.state(step) for part in data])))
        rest, _ = _workers(lambda: _data(_source(kind), preprocessing), workers, 20 - step, state)
        assert rest == whole[step:], step


@pytest.mark.slow
def test_interrupted_again_and_again(preprocessing):
    whole, _ = _workers(lambda: _data(_source("runs, broken"), preprocessing), 1, 12)
    state, steps = None, []
    for pieces in (4, 1, 7):
        data = _data(_source("runs, broken"), preprocessing)
        if state is not None:
            data.restore(state)
        steps += _ids(data.dataset(), pieces)
        state = data.state(len(steps))
    assert steps == whole


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["runs, broken", "mixture"])
def test_streams_make_batches_independent_of_the_workers(preprocessing, kind):
    def make():
        return _data(_source(kind), preprocessing, streams=2)

    one, data = _workers(make, 1, 12)
    # A run of one worker goes on with two, and back.
    rest, two = _workers(make, 2, 11, data[0].state(1))
    assert rest == one[1:]
    assert _workers(make, 1, 2, merge_states([part.state(10) for part in two]))[0] == one[10:]


def test_replica_batches_are_the_parts_of_the_workers_batch(preprocessing):
    whole = _ids(_data(_source("plain"), preprocessing).dataset(), 6)
    data = _data(_source("plain"), preprocessing)
    parts = _ids(data.dataset(_context(0, 1, 4)), 24)
    assert [_flat(parts[4 * s : 4 * s + 4]) for s in range(6)] == whole


@pytest.mark.parametrize("by", ["function", "dataset"])
@pytest.mark.slow
def test_under_a_strategy(preprocessing, by):
    strategy = two_replicas()
    whole = _ids(_data(_source("broken"), preprocessing).dataset(), 6)
    data = _data(_source("broken"), preprocessing)
    if by == "function":
        spread = iter(strategy.distribute_datasets_from_function(data.dataset))
    else:
        spread = iter(strategy.experimental_distribute_dataset(data.dataset()))
    assert [_across(strategy, next(spread)) for _ in range(6)] == whole


@pytest.mark.parametrize(
    ("kind", "deterministic"),
    [
        ("broken", True),
        ("runs, broken", False),
        pytest.param("broken", False, marks=pytest.mark.slow),
        pytest.param("runs, broken", True, marks=pytest.mark.slow),
    ],
)
def test_every_record_is_accounted_for(preprocessing, kind, deterministic, tmp_path, monkeypatch):
    monkeypatch.setattr(PositionTracker, "SLACK", 16)
    path = str(tmp_path / "reports" / "bad-{worker}.jsonl")
    data = _data(_source(kind), preprocessing, 4, report=path, deterministic=deterministic, prefetch=1)
    steps = _ids(data.dataset(), 30)  # 40 sound records of 47
    if deterministic:
        assert sorted(_flat(steps[:10])) == sorted(f"memory-{i}" for i in range(47) if i not in BROKEN)
        account = data.accounting(20)
        assert account["read"] == account["used"] + account["skipped"] and account["used"] == 80
    assert {int(name.split("-")[1]) for name in _flat(steps)} == {*range(47)} - BROKEN.keys()
    lines = [json.loads(line) for line in (tmp_path / "reports" / "bad-0.jsonl").read_text().splitlines()]
    assert {int(line["id"].split("-")[1]): line["cause"] for line in lines} == {
        3: "undecodable_image",
        11: "missing_caption",
        12: "missing_caption",
        13: "not_utf8",
        27: "too_many_pixels",
        39: "undecodable_image",
        40: "missing_image",
    }
    assert [(line["shard"], line["offset"]) for line in lines if line["id"] == "memory-27"] == [("memory-2", 7)]


def test_two_epochs_name_each_bad_record_once(preprocessing, tmp_path):
    path = tmp_path / "bad.jsonl"
    data = _data(_source("broken"), preprocessing, 4, report=str(path))
    for _ in data.dataset().take(25):
        pass
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert {int(line["id"].split("-")[1]) for line in lines} == BROKEN.keys() and len(lines) == len(BROKEN)
    assert data.accounting(20) == {
        "read": 94,
        "used": 80,
        "skipped": 14,
        "by_cause": {"missing_caption": 4, "missing_image": 2, "not_utf8": 2, "too_many_pixels": 2,
                     "undecodable_image": 4},
    }  # fmt: skip


@pytest.mark.slow
def test_too_many_bad_records_stop_training(preprocessing):
    broken = {i: {"image": b"x"} for i in range(0, 47, 2)}
    data = _data(MemorySource(47, broken), preprocessing, bad_record_limit=0.3)
    with pytest.raises(tf.errors.OpError, match=r"records are broken \(\d+ undecodable_image\), more than 30.00% of"):
        for _ in data.dataset().take(20):
            pass
    data = _data(MemorySource(47, {5: {"image": b"x"}}), preprocessing, bad_record_limit=0)
    with pytest.raises(tf.errors.OpError, match="1 undecodable_image"):
        for _ in data.dataset().take(20):
            pass


@pytest.mark.slow
def test_captions_are_chosen_evenly_and_by_seed(preprocessing):
    source = MemorySource(30, captions=3)

    def seen(seed, epochs):
        dataset = TrainingData(source, preprocessing, 30, seed=seed, extra_fields=["id"]).dataset()
        pairs = [zip(b["id"].numpy(), b["text"].numpy(), strict=True) for b in dataset.take(epochs)]
        return [{(name.decode(), tuple(text)) for name, text in epoch} for epoch in pairs]

    epochs = seen(1, 20)
    assert {len(epoch) for epoch in epochs} == {30}
    assert len(set().union(*epochs)) == 90  # 20 epochs meet all three captions of each
    assert seen(1, 1) == epochs[:1] != seen(2, 1)


@pytest.mark.slow
def test_mixture_keeps_its_proportions(preprocessing):
    source = Mixture(
        [MemorySource(47), MemorySource(20, name="other"), MemorySource(30, name="third")], [0.5, 0.3, 0.2]
    )
    (step,) = _ids(_data(source, preprocessing, BLOCK).dataset(), 1)
    assert collections.Counter(name.split("-")[0] for name in step) == {"memory": 500, "other": 300, "third": 200}


def test_speed_mode_uses_the_same_records(preprocessing):
    steps = _ids(_data(_source("runs"), preprocessing, deterministic=False).dataset(), 12)
    assert len(set(_flat(steps)[:90])) == 47


def test_corruption_and_its_seed(preprocessing):
    seeds = []

    def corrupt(batch, seed):
        return {**batch, "seed": seed}

    data = _data(_source("plain"), preprocessing, corruption=corrupt)
    seeds = [tuple(batch["seed"].numpy()) for batch in data.dataset().take(4)]
    assert len(set(seeds)) == 4
    again = _data(_source("plain"), preprocessing, corruption=corrupt)
    again.restore(data.state(2))
    assert [tuple(batch["seed"].numpy()) for batch in again.dataset().take(2)] == seeds[2:]


def test_a_billion_records_resume_at_once(preprocessing):
    class Huge(MemorySource):
        def read(self, index):
            return super().read(index % 40)

    source = Huge(40)
    source.size = 10**9
    data = _data(source, preprocessing)
    next(iter(data.dataset()))
    state = {**data.state(0), "step": 10**9, "passed": {"0": 8 * 10**9}}
    data.restore(state)
    assert len(_ids(data.dataset(), 2)) == 2
    assert data.state(10**9 + 2)["passed"] == {"0": 8 * 10**9 + 16}
    assert len(json.dumps(state)) < 300


def test_a_run_keeps_the_kernel_that_it_began_with(preprocessing, monkeypatch):
    antialias = Preprocessing(ImagePreprocessing(4, "bicubic_antialias"), preprocessing.text)

    def data(kernel, state=None, owner=antialias):
        monkeypatch.setattr(ImagePreprocessing, "resize_kernel", property(lambda self: kernel))
        made = _data(_source("plain"), owner)
        if state is not None:
            made.restore(state)
        made.dataset()
        return made

    compiled, plain = data("compiled").state(0), data("tensorflow").state(0)
    assert (compiled["resize"], plain["resize"]) == ("compiled", "tensorflow")
    # Both have TensorFlow's operations, so a machine with a compiler joins the run of one without.
    assert data("compiled", plain).state(0)["resize"] == "tensorflow"
    with pytest.raises(ValueError, match="began with pictures resized by the compiled operation.*SIGLIP_TF_RESIZE"):
        data("tensorflow", compiled)
    with pytest.raises(ValueError, match="workers resize pictures by different kernels.*compiled.*tensorflow"):
        merge_states([plain, compiled])
    old = {key: value for key, value in compiled.items() if key != "resize"}
    assert data("tensorflow", old).state(0)["resize"] == "tensorflow"
    monkeypatch.undo()
    assert preprocessing.image.resize_kernel == "any"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch": 0}, "global_batch must be at least 1. Received: 0"),
        ({"seed": -1}, "seed must lie in"),
        ({"bad_record_limit": -1}, "bad_record_limit must not be negative. Received: -1"),
        ({"extra_fields": ["colour"]}, r"extra_fields must be among .*Received: \['colour'\]"),
    ],
)
def test_bad_arguments(preprocessing, arguments, message):
    with pytest.raises(ValueError, match=message):
        _data(_source("plain"), preprocessing, **arguments)


def test_preprocessing_without_a_fixed_size_is_refused_at_once(preprocessing, tmp_path):
    source, naflex = MemorySource(4), Preprocessing(NaFlexPreprocessing(), preprocessing.text)
    for use in (
        lambda: TrainingData(source, naflex, 2),
        lambda: EvaluationData(source, naflex, 2),
        lambda: inspect(source, naflex),
        lambda: EmbeddingWriter(tmp_path, source, naflex, lambda x: x, tower="t", embed_dim=2),
    ):
        with pytest.raises(ValueError, match=r"expected an ImagePreprocessing. Received: NaFlexPreprocessing"):
            use()


def test_bad_divisions_and_states(preprocessing):
    with pytest.raises(ValueError, match="3 streams cannot be shared by 2 workers"):
        _data(_source("plain"), preprocessing, 6, streams=3).dataset(_context(0, 2, 2))
    with pytest.raises(ValueError, match="multiple of the 1 streams and of the 3 replicas. Received: 8"):
        _data(_source("plain"), preprocessing).dataset(_context(0, 1, 3))
    with pytest.raises(ValueError, match="memory has no 'language'"):
        _data(_source("plain"), preprocessing, extra_fields=["language"]).dataset()
    data = _data(_source("plain"), preprocessing)
    with pytest.raises(ValueError, match="not known yet. Call `dataset` first"):
        data.state(0)
    data.dataset()
    with pytest.raises(ValueError, match="its seed is 0, this one's 1"):
        _data(_source("plain"), preprocessing, seed=1).restore(data.state(0))
    with pytest.raises(ValueError, match="its fingerprint is"):
        _data(MemorySource(46), preprocessing).restore(data.state(0))
    with pytest.raises(ValueError, match="1 streams: it cannot continue with 2"):
        _data(_source("plain"), preprocessing, streams=2).restore(data.state(0))
    with pytest.raises(ValueError, match="version 1. Received: None"):
        data.restore({})
    data.restore({**data.state(0), "step": 5})
    data.dataset()
    with pytest.raises(ValueError, match="position at step 4 is not known"):
        data.state(4)


def test_a_model_normalizes_pixels_as_the_preprocessing_does():
    """To the bit, for every value of a byte."""
    pixels = tf.reshape(tf.range(256 * 3, dtype=tf.int32) % 256, [1, 16, 16, 3])
    pixels = tf.cast(pixels, tf.uint8)
    floats = ImagePreprocessing.normalize(pixels)
    np.testing.assert_array_equal(check_images(pixels, (16, 16)), floats)
    np.testing.assert_array_equal(tf.function(lambda x: check_images(x, (16, 16)), jit_compile=True)(pixels), floats)
    assert check_images(floats, (16, 16)) is floats
