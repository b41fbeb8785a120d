"""Remote shards start from the counts that lie beside them, and each count is checked when its shard is read.

`ram://` is a file system of TensorFlow's own, as `gs://` is.
"""

import io
import json
import time

import numpy as np
import pytest
import tensorflow as tf

from siglip_tf.data.order.bad_records import BadRecordReport, Explainer
from siglip_tf.data.order.mixture import Mixture
from siglip_tf.data.reading import Reading
from siglip_tf.data.sources import TarSource, TFRecordSource
from siglip_tf.data.sources.shards.counts import find_counts, keep_counts
from tests.data.memory_source import encode
from tests.data.sources.reading import in_graph, run, same
from tests.data.sources.test_tar import img2dataset_sample
from tests.data.sources.test_tfrecord import img2dataset_record
from tests.data.webdataset_library import webdataset
from tools import count_shards

COUNTS = (3, 1, 4)


def put(path: str, content: bytes | str) -> None:
    tf.io.gfile.makedirs(path.rpartition("/")[0])
    if tf.io.gfile.exists(path):  # it would be appended to
        tf.io.gfile.remove(path)
    with tf.io.gfile.GFile(path, "wb") as file:
        file.write(content if isinstance(content, bytes) else content.encode())


def fill(folder: str, kind: str) -> list[str]:
    """Three shards of 3, 1 and 4 records."""
    paths = [f"{folder}/{shard:05d}.{kind}" for shard in range(3)]
    for shard, (path, count) in enumerate(zip(paths, COUNTS, strict=True)):
        numbers = [10 * shard + i for i in range(count)]
        if kind == "tar":
            out = io.BytesIO()
            with webdataset.TarWriter(out) as tar:
                for number in numbers:
                    tar.write(img2dataset_sample(number))
            put(path, out.getvalue())
        else:
            put(path, b"")
            with tf.io.TFRecordWriter(path) as writer:
                for number in numbers:
                    writer.write(img2dataset_record(number))
    return paths


def stats(folder: str, counts) -> None:
    for shard, count in enumerate(counts):
        put(f"{folder}/{shard:05d}_stats.json", json.dumps({"count": 10, "successes": count, "status_dict": {}}))


def test_counts_of_every_writer():
    paths = fill("ram://counts", "tar")
    assert find_counts(paths).tolist() == [-1, -1, -1]
    stats("ram://counts", COUNTS[:1])
    assert find_counts(paths).tolist() == [3, -1, -1]
    entries = [{"url": "gs://elsewhere/00001.tar", "nsamples": 1, "filesize": 9}, {"url": "x.tar", "nsamples": 7}]
    put("ram://counts/index.json", json.dumps({"wids_version": 1, "shardlist": entries}))
    assert find_counts(paths).tolist() == [3, 1, -1]
    put("ram://counts/sizes.json", json.dumps({"00002.tar": 4, "00001.tar": 99}))
    assert find_counts(paths)[2] == 4
    keep_counts("ram://counts", None, {"00000.tar": 5})
    keep_counts("ram://counts", None, {"00000.tar": 6})
    assert find_counts(paths)[0] == 6
    keep_counts("ram://counts", "ram://own", {paths[0]: 8})
    assert find_counts(paths, "ram://own")[0] == 8


@pytest.mark.parametrize("kind", ["tar", "tfrecord"])
def test_no_shard_is_read_before_its_records(kind):
    folder = f"ram://lazy-{kind}"
    fill(folder, kind)
    stats(folder, COUNTS)
    make = TarSource if kind == "tar" else TFRecordSource
    source = make(folder)
    assert source.size == sum(COUNTS) and not tf.io.gfile.exists(f"{folder}/.index")
    np.testing.assert_array_equal(source.runs, [0, 3, 4, 8])
    read = in_graph(source)
    assert [int(example["id"]) for example in read] == [0, 1, 2, 10, 20, 21, 22, 23]
    assert [example["image"] for example in read] == [encode(int(example["id"])) for example in read]
    assert all(same(source.fetch(i), example) for i, example in enumerate(read))
    assert [int(example["id"]) for example in run(source, 5, 2)] == [21, 22]
    assert source.read(tf.constant(6, tf.int64))["image"] == encode(22)
    assert source.locate(7) == (f"{folder}/00002.{kind}", 3)
    assert source.fingerprint == make(folder).fingerprint
    assert source.record_bytes == pytest.approx(
        sum(tf.io.gfile.stat(f"{folder}/{i:05d}.{kind}").length for i in range(3)) / 8
    )


@pytest.mark.parametrize("kind", ["tar", "tfrecord"])
def test_wrong_counts_are_broken_records_that_say_so(kind):
    folder = f"ram://wrong-{kind}"
    paths = fill(folder, kind)
    stats(folder, (5, 1, 2))
    with tf.io.gfile.GFile(paths[1], "rb") as file:
        torn = file.read()[:-100] if kind == "tfrecord" else file.read()[:600]
    put(paths[1], torn)
    source = (TarSource if kind == "tar" else TFRecordSource)(folder)
    assert source.size == 8
    read = [example["image"] for example in in_graph(source)]
    assert read == [encode(0), encode(1), encode(2), b"", b"", b"", encode(20), b""]
    report = BadRecordReport(None)
    explain = Explainer(report, None)
    broken = [index for index, image in enumerate(read) if not image]
    assert [explain(source, index).value for index in broken] == ["wrong_count"] * 2 + ["torn_shard", "wrong_count"]
    details = [entry["detail"] for entry in report.first]
    assert "00000" in details[0] and "holds 3 records where its count says 5" in details[0]
    assert "holds 4 records where its count says 2: the others would never be read" in details[3]


def test_the_command_counts_the_rest_and_goes_on(capsys, monkeypatch):
    paths = fill("ram://command", "tar")
    stats("ram://command", COUNTS[:1])
    put(paths[2], b"")
    assert count_shards.main(["ram://command/{00000..00002}.tar", "--workers", "2"]) == 0
    printed = capsys.readouterr().out
    assert "3 shards, 1 of them counted already" in printed and "counted 2 records in 2 shards" in printed
    assert find_counts(paths).tolist() == [3, 1, 1]
    fill("ram://command", "tar")
    monkeypatch.setattr(count_shards, "count_shard", lambda *_: pytest.fail("counted twice"))
    assert count_shards.main(["ram://command/*.tar"]) == 0
    monkeypatch.undo()
    assert count_shards.main(["ram://command?kind=tar", "--again"]) == 0
    assert find_counts(paths).tolist() == [*COUNTS]
    assert count_shards.main(["nothing.csv"]) == 2 and "Expected tar or TFRecord shards" in capsys.readouterr().err


def _brute_force(order, streams: int, epochs: int) -> list[list[int]]:
    """Every record of every stream in turn, from whole epochs written out: runs, shares, windows, shuffles."""
    from siglip_tf.data.order.permutation import mix, permute

    sequences: list[list[int]] = [[] for _ in range(streams)]
    runs = np.asarray(order._runs)
    for epoch in range(epochs):
        shuffled = permute(np.arange(len(runs) - 1), len(runs) - 1, mix(order.seed, 1, epoch)).tolist()
        windows = [shuffled[i : i + order.window_runs] for i in range(0, len(shuffled), order.window_runs)]
        start = 0
        for stream in range(streams):
            # Slot q of stream g belongs to epoch (q * streams + g) // size.
            first = -(-(epoch * order.size - stream) // streams)
            count = -(-((epoch + 1) * order.size - stream) // streams) - first
            position = 0
            for number, window in enumerate(windows):
                records = [r for i in window for r in range(runs[i], runs[i + 1])]
                inside = [r for p, r in enumerate(records, position) if start <= p < start + count]
                position += len(records)
                gather = (
                    permute(np.arange(len(inside)), len(inside), mix(order.seed, 2, epoch, stream, number))
                    if (inside)
                    else []
                )
                sequences[stream] += [inside[i] for i in gather]
            start += count
    return sequences


def _simulated(folder, shards: int, mean: int) -> TarSource:
    """A source of shards that exist as counts alone."""
    counts = np.random.default_rng(0).integers(mean - mean // 10, mean + mean // 10, shards)
    surplus = int(counts.sum()) - shards * mean
    counts -= surplus // shards
    counts[: surplus % shards] -= 1
    keep_counts(f"ram://{folder}", None, {f"{i:06d}.tar": int(count) for i, count in enumerate(counts)})
    return TarSource(f"ram://{folder}/{{000000..{shards - 1:06d}}}.tar")


def test_drawn_positions_agree_with_brute_force():
    """1,000 positions of a store of 67 shards, in four streams and three epochs."""
    source = _simulated("small", 67, 40)
    source.record_bytes = 1000.0
    reading = Reading(Mixture.of(source), seed=5, streams=4, window_bytes=170_000)
    order = reading.order(0)
    assert order.window_runs == 4
    expected = _brute_force(order, 4, 3)
    draw = np.random.default_rng(1)
    for stream in range(4):
        slots = np.sort(draw.integers(0, 3 * 670, 250))
        assert order.records(stream, slots).tolist() == [expected[stream][slot] for slot in slots]
        for slot in slots[::50].tolist():
            assert reading.locate(stream, slot)[1] == expected[stream][slot]


@pytest.mark.slow
def test_ten_billion_pairs(capsys):
    """200,000 shards of 50,000 records: the first plan, and the plan at step 100,000, within 10 s and 2 GiB each."""
    import resource

    figures = []
    for shards in (2_000, 20_000, 200_000):
        begin = time.process_time()
        source = _simulated(f"store-{shards}", shards, 50_000)
        made = time.process_time()
        source = TarSource(source.name)
        opened = time.process_time()
        reading = Reading(Mixture.of(source), seed=1, streams=8)
        reading.order(0).window(3, 0)
        planned = time.process_time()
        slot = 100_000 * 32_768 // 8
        resumed = Reading(Mixture.of(TarSource(source.name)), seed=1, streams=8)
        window = resumed.order(0).window(3, slot)
        again = time.process_time()
        draw = np.random.default_rng(0)
        slots = draw.integers(0, slot, 200).tolist()
        located = [source.locate(reading.locate(3, s)[1]) for s in slots[:20]]
        lookup = time.process_time()
        for index in draw.integers(0, source.size, 2000).tolist():
            source.locate(index)
        found = time.process_time()
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        assert source.size == shards * 50_000 and window.first <= slot < window.end and len(located) == 20
        figures.append(
            f"{shards:,} shards, {source.size:,} records: written {made - begin:.1f} s, open {opened - made:.2f} s, "
            f"first plan {planned - opened:.2f} s, open and plan at step 100,000 {again - planned:.2f} s, record of a "
            f"position {(lookup - again) / 20 * 1e3:.1f} ms, locate {(found - lookup) / 2000 * 1e6:.1f} us, "
            f"peak memory {memory:,.0f} MiB"
        )
        assert planned - made < 10 and again - planned < 10 and memory < 2048
    with capsys.disabled():
        print("\n" + "\n".join(figures))
