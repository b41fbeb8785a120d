"""Checkpoint folders: atomic, pruned by rule, and never read when torn."""

import json
import pathlib

import pytest
import tensorflow as tf

from siglip_tf.training import CheckpointStore


def write(store, step, content=b"weights"):
    folder = pathlib.Path(store.begin(step))
    (folder / "data").write_bytes(content)
    return folder


def test_nothing_counts_before_it_is_committed(tmp_path):
    store = CheckpointStore(tmp_path / "checkpoints")
    assert store.steps() == [] and store.newest() is None
    write(store, 10)
    assert store.steps() == []
    assert pathlib.Path(store.commit(10)).name == "step_000000010"
    assert store.newest() == 10
    write(store, 20)  # as if killed before the commit
    assert store.newest() == 10
    store.sweep()
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step_000000010"]


def test_keep_last_and_keep_every(tmp_path):
    store = CheckpointStore(tmp_path, keep_last=2, keep_every=30)
    for step in range(0, 101, 10):
        write(store, step)
        store.commit(step)
    assert store.steps() == [30, 60, 90, 100]


def test_a_step_can_be_written_again(tmp_path):
    store = CheckpointStore(tmp_path)
    for content in (b"old", b"newer"):
        write(store, 5, content)
        store.commit(5)
    assert (tmp_path / "step_000000005" / "data").read_bytes() == b"newer"
    assert store.steps() == [5]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda p: (p / "complete.json").unlink(), "no complete.json"),
        (lambda p: (p / "complete.json").write_text('{"step": 20, "fil'), "complete.json is torn"),
        (lambda p: (p / "data").unlink(), "data is missing"),
        (lambda p: (p / "data").write_bytes(b"we"), "data has 2 bytes of 7"),
    ],
)
def test_a_torn_checkpoint_is_passed_over_with_a_word(tmp_path, damage, words):
    store = CheckpointStore(tmp_path)
    for step in (10, 20):
        write(store, step)
        store.commit(step)
    damage(tmp_path / "step_000000020")
    said = []
    assert store.newest(said.append) == 10
    assert len(said) == 1 and words in said[0] and "step_000000020" in said[0]


def test_torn_checkpoints_are_not_counted_among_the_kept(tmp_path):
    store = CheckpointStore(tmp_path, keep_last=2)
    for step in (10, 20, 30):
        write(store, step)
        store.commit(step)
        if step > 10:
            (tmp_path / f"step_{step:09d}" / "complete.json").unlink()
    write(store, 40)
    store.commit(40)
    assert [s for s in store.steps() if store.fault(s) is None] == [10, 40]


def test_an_object_store_writes_the_marker_last(tmp_path):
    """`ram://` stands for `gs://`: an address with a scheme, handled by `tf.io.gfile` alone."""
    store = CheckpointStore("ram://checkpoints/run", keep_last=1)
    for step in (1, 2):
        folder = store.begin(step)
        with tf.io.gfile.GFile(f"{folder}/data", "w") as file:
            file.write("weights")
        assert "no complete.json" in store.fault(step)
        store.commit(step)
    assert store.steps() == [2] and store.newest() == 2
    with tf.io.gfile.GFile(store.path(2) + "/complete.json", "r") as file:
        assert json.loads(file.read()) == {"step": 2, "files": {"data": 7}}


@pytest.mark.parametrize("arguments", [{"keep_last": 0}, {"keep_every": 0}])
def test_numbers_below_one_are_refused(tmp_path, arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        CheckpointStore(tmp_path, **arguments)
