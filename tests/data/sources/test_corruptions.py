"""Random damage to the files of every kind of source: an error in words, or every record accounted for."""

import json
import re
import time

import pytest
import tensorflow as tf

from siglip_tf.data.order.bad_records import BadRecordReport, Explainer, diagnose
from siglip_tf.data.sources import open_source
from tests.data.sources.corruptions import KINDS, RECORDS, corrupted, place, written
from tools import inspect_data

# What ends exactly behind a record is a whole file of fewer records.
_MAY_END_EARLY = ("csv", "jsonl", "tfrecord")


def _account(spec: str) -> tuple[int, int] | None:
    """Captions of sound records and broken records; None where the source is refused by a ValueError."""
    try:
        source = open_source(spec)
    except ValueError as error:
        assert str(error) and len(str(error)) < 2000 and not re.search(r"\bb['\"]|(\\x..){4}", str(error))
        return None
    sound, broken = 0, 0
    explain = Explainer(BadRecordReport(None), None)
    for index in range(source.size):
        try:
            example = source.fetch(index)
            found = diagnose(example, None)
        except tf.errors.OpError:
            found = explain(source, index)
        shard, offset = source.locate(index)
        assert shard and offset >= 0
        if found is None:
            sound += len(example["captions"])
        else:
            broken += 1
    return sound, broken


def _check(folder, kind: str, seeds: range) -> dict[str, int]:
    data = written(kind)
    shards = 1 if kind in ("csv", "jsonl") else 2
    results = {"refused": 0, "broken": 0, "sound": 0}
    for seed in seeds:
        damaged, how = corrupted(data, seed)
        begin = time.monotonic()
        account = _account(place(folder / f"{kind}-{seed}", kind, damaged))
        assert time.monotonic() - begin < 20, (kind, seed)
        if account is None:
            results["refused"] += 1
            continue
        sound, broken = account
        results["broken" if broken else "sound"] += 1
        if not broken and not (how == "cut" and kind in _MAY_END_EARLY):
            assert sound >= shards * RECORDS, (kind, seed, how, account)
    return results


@pytest.mark.parametrize("kind", [k if k != "tfrecord" else pytest.param(k, marks=pytest.mark.slow) for k in KINDS])
def test_some_corruptions(tmp_path, kind):
    assert _account(place(tmp_path / "sound", kind, written(kind))) == (RECORDS * (1 if "s" in kind[:3] else 2), 0)
    assert sum(_check(tmp_path, kind, range(20)).values()) == 20


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_five_hundred_corruptions(tmp_path, kind):
    results = _check(tmp_path, kind, range(1000, 1500))
    print(kind, results)
    assert sum(results.values()) == 500


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_command_names_what_is_wrong(tmp_path, kind, capsys):
    """The whole way of `tools.inspect_data`, its batches included: an exit status, and figures that add up."""
    for seed in range(2000, 2012):
        damaged, _ = corrupted(written(kind), seed)
        spec = place(tmp_path / f"{kind}-{seed}", kind, damaged)
        report = tmp_path / f"{kind}-{seed}.jsonl"
        out = str(tmp_path / f"{kind}-{seed}.html")
        status = inspect_data.main(
            [spec, "--image-size", "32", "--report", str(report), "--out", out, "--samples", "1"]
        )
        printed = capsys.readouterr()
        if status:
            assert printed.err.startswith("error: ") and "Traceback" not in printed.err
            continue
        figures = printed.out.partition(" records read = ")[2].split()
        skipped = int(figures[3])
        lines = [json.loads(line) for line in report.read_text().splitlines()] if report.exists() else []
        assert len(lines) == skipped
