"""Files and folders are never seen half written: on disks, in an object store, and when the disk is full."""

import errno
import os
import pathlib
import threading

import pytest
import tensorflow as tf

from siglip_tf import storage
from tests.object_store import ObjectStore


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "settings.json"
    storage.write_file(path, "grün")
    storage.write_file(str(path), b"blue")
    storage.write_file(f"file://{path}", iter([b"r", b"ed"]))
    assert storage.read_file(path) == b"red"

    def breaks():
        yield b"half"
        raise RuntimeError("the writer's own fault")

    with pytest.raises(RuntimeError, match="own fault"):
        storage.write_file(path, breaks())
    with pytest.raises(RuntimeError), storage.new_file(path) as aside:
        pathlib.Path(aside).write_text("half")
        raise RuntimeError
    assert os.listdir(path.parent) == ["settings.json"] and path.read_bytes() == b"red"
    with storage.new_file(tmp_path / "a.npz") as aside:
        assert aside.endswith(".npz") and os.path.dirname(aside) == str(tmp_path)
        pathlib.Path(aside).write_text("arrays")
    assert (tmp_path / "a.npz").read_text() == "arrays"
    with pytest.raises(FileNotFoundError):
        storage.read_file(tmp_path / "nothing")


def test_what_a_killed_process_left_is_swept(tmp_path):
    (tmp_path / ".a.txt.0123456789ab.partial").touch()
    (tmp_path / ".b.npz.0123456789ab.partial.npz").touch()
    (tmp_path / ".c.0123456789ab.partial").mkdir()
    (tmp_path / "d.partial").touch()
    (tmp_path / ".e.0123456789ab.partial").touch()  # perhaps somebody writes it now
    storage.sweep(tmp_path, ["a.txt", "b.npz", "c"])
    assert sorted(os.listdir(tmp_path)) == [".e.0123456789ab.partial", "d.partial"]
    storage.sweep(tmp_path / "nothing", ["a.txt"])


def test_many_writers_of_one_name(tmp_path):
    texts = [str(i) * 100_000 for i in range(8)]
    threads = [threading.Thread(target=storage.write_file, args=(tmp_path / "manifest.json", t)) for t in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "manifest.json").read_text() in texts
    assert os.listdir(tmp_path) == ["manifest.json"]


def test_a_folder_appears_whole_and_replaces_another(tmp_path):
    for content in ("one", "two"):
        with storage.new_folder(tmp_path / "model", last="marker") as folder:
            pathlib.Path(folder, "data").write_text(content)
            pathlib.Path(folder, "marker").touch()
            before = (tmp_path / "model" / "data").read_text() if content == "two" else None
            assert before in (None, "one")
    no_marker = pytest.raises(FileNotFoundError, match=r"a file marker.*\['data'\]")
    with no_marker, storage.new_folder(tmp_path / "model", last="marker") as folder:
        pathlib.Path(folder, "data").write_text("three")
    assert (tmp_path / "model" / "data").read_text() == "two" and os.listdir(tmp_path) == ["model"]


def test_an_object_store_gets_the_last_file_last(tmp_path, monkeypatch):
    store = ObjectStore().install(monkeypatch)

    def publish():
        with storage.new_folder("gs://bucket/model/1", last="saved_model.pb") as folder:
            for name in ("assets/vocabulary", "saved_model.pb", "variables/a", "variables/b"):
                pathlib.Path(folder, name).parent.mkdir(exist_ok=True)
                pathlib.Path(folder, name).write_text(name)

    whole = {f"gs://bucket/model/1/{n}" for n in ("assets/vocabulary", "saved_model.pb", "variables/a", "variables/b")}
    for _ in range(2):  # the second time over the first
        publish()
        assert set(store.objects) == whole and store.calls["rename"] == 0
        assert all(seen == whole for seen in store.seen if "gs://bucket/model/1/saved_model.pb" in seen)
    store.fail_at["put"] = store.calls["put"] + 3
    with pytest.raises(tf.errors.UnavailableError):
        publish()
    assert store.objects == {}


def test_a_file_in_an_object_store(monkeypatch):
    store = ObjectStore().install(monkeypatch)
    storage.write_file("gs://bucket/run/manifest.json", "old")
    store.fail_at["put"] = store.calls["put"] + 2  # the copy that a rename is
    with pytest.raises(tf.errors.UnavailableError):
        storage.write_file("gs://bucket/run/manifest.json", "new")
    assert store.objects == {"gs://bucket/run/manifest.json": b"old"}
    assert storage.read_file("gs://bucket/run/manifest.json") == b"old"
    storage.remove("gs://bucket/run/manifest.json")
    storage.remove("gs://bucket/run/manifest.json")
    with pytest.raises(FileNotFoundError, match=r"gs://bucket/run/manifest\.json"):
        storage.read_file("gs://bucket/run/manifest.json")
    assert storage.free_bytes("gs://bucket/run") is None
    storage.require_space("gs://bucket/run", 1 << 60)


def test_what_a_full_disk_says(tmp_path):
    cases = [
        (
            OSError(errno.ENOSPC, "No space left on device"),
            "the disk is full. 5,000 bytes are needed; .* are free. Free",
        ),
        (tf.errors.ResourceExhaustedError(None, None, "x; No space left on device"), "the disk is full"),
        (OSError(errno.EDQUOT, "quota"), "quota is used up"),
        (OSError(errno.EROFS, "Read-only file system"), "file system is read-only"),
        (tf.errors.PermissionDeniedError(None, None, "/a; Permission denied"), "permission is denied. Name a folder"),
        (OSError(errno.EFBIG, "File too large"), "larger than this process may write"),
    ]
    for error, words in cases:
        with (
            pytest.raises(storage.StorageError, match=words) as raised,
            storage.explained(tmp_path, 5000, "All is kept."),
        ):
            raise error
        assert str(tmp_path) in str(raised.value) and str(raised.value).endswith("All is kept.")
    with pytest.raises(KeyError), storage.explained(tmp_path):
        raise KeyError("another error")
    with pytest.raises(storage.StorageError, match="1,152,921,504,606,846,976 bytes are needed"):
        storage.require_space(tmp_path / "not" / "yet", 1 << 60)


def test_a_full_disk_keeps_the_old_content(small_disk):
    storage.write_file(small_disk / "a", "old")
    with pytest.raises(storage.StorageError, match="the disk is full"):
        storage.write_file(small_disk / "a", b"x" * 300_000)
    assert os.listdir(small_disk) == ["a"] and (small_disk / "a").read_text() == "old"
