"""Parquet files with images inside, as img2dataset writes them and as Hugging Face's image columns."""

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import tensorflow as tf

from siglip_tf.data.sources.parquet import ParquetSource
from tests.data.memory_source import encode
from tests.data.sources.reading import in_graph, run, same


def _write(path, rows, group=3) -> str:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), str(path), row_group_size=group)
    return str(path)


def _row(number: int) -> dict:
    return {"key": f"{number:09d}", "jpg": encode(number), "caption": f"picture {number}", "url": "http://a.b"}


def test_img2dataset_layout(tmp_path):
    _write(tmp_path / "00000.parquet", [_row(i) for i in range(7)])
    _write(tmp_path / "00001.parquet", [_row(10 + i) for i in range(2)])
    source = ParquetSource(str(tmp_path))
    np.testing.assert_array_equal(source.runs, [0, 3, 6, 7, 9])
    read = in_graph(source)
    assert [int(e["id"]) for e in read] == [*range(7), 10, 11]
    assert [e["image"] for e in read] == [encode(n) for n in [*range(7), 10, 11]]
    assert all(same(a, source.fetch(i)) for i, a in enumerate(read))
    assert source.locate(8) == (str(tmp_path / "00001.parquet"), 1)
    assert [int(e["id"]) for e in run(source, 4, 2)] == [4, 5]


def test_remote_files(tmp_path):
    path = _write(tmp_path / "a.parquet", [_row(i) for i in range(5)])
    tf.io.gfile.copy(path, "ram://parquet.parquet")
    source = ParquetSource("ram://parquet.parquet")
    assert [e["image"] for e in in_graph(source)] == [encode(i) for i in range(5)]


def test_image_structs_lists_and_labels(tmp_path):
    rows = [
        {"image": {"bytes": encode(1), "path": "x"}, "text": ["one", "zwei"], "lang": ["en", "de"], "label": 4},
        {"image": {"bytes": None, "path": "y"}, "text": None, "lang": None, "label": None},
    ]
    source = ParquetSource(_write(tmp_path / "a.parquet", rows))
    first, second = read = in_graph(source)
    assert first["captions"].tolist() == [b"one", b"zwei"] and first["language"].tolist() == [b"en", b"de"]
    assert first["id"] == b"a.parquet:0" and (first["label"], second["label"]) == (4, -1)
    assert second["image"] == b"" and second["captions"].tolist() == []
    assert all(same(a, source.fetch(i)) for i, a in enumerate(read))
    named = ParquetSource(str(tmp_path), columns={"captions": "lang"})
    assert in_graph(named)[0]["captions"].tolist() == [b"en", b"de"]


def test_torn_and_empty_files(tmp_path):
    _write(tmp_path / "0.parquet", [_row(i) for i in range(2)])
    data = (tmp_path / "0.parquet").read_bytes()
    (tmp_path / "1.parquet").write_bytes(data[:-20])
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([_row(0)]).slice(0, 0), str(tmp_path / "2.parquet"))
    source = ParquetSource(str(tmp_path))
    causes = [bytes(source.fetch(i).get("cause", b"")).decode() for i in range(source.size)]
    assert causes == ["", "", "torn_shard", "empty_shard"]
    assert [e["image"] for e in in_graph(source)] == [encode(0), encode(1), b"", b""]


def test_wrong_files(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"x")
    with pytest.raises(ValueError, match="is no Parquet file"):
        ParquetSource(str(tmp_path))
    path = _write(tmp_path / "x.parquet", [{"jpg": b"", "words": ""}])
    with pytest.raises(ValueError, match=r"no column for \['captions'\]: name it. Its columns: jpg, words"):
        ParquetSource(path)
    with pytest.raises(ValueError, match=r"no columns \['w'\]"):
        ParquetSource(path, columns={"captions": "w"})
    with pytest.raises(ValueError, match=r"columns are named for .* Received: \['text'\]"):
        ParquetSource(path, columns={"text": "words"})
