"""Parquet files with images inside, as img2dataset writes them and as Hugging Face's image columns."""

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import tensorflow as tf

from siglip_tf.data.sources.shards.parquet import ParquetSource
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


def test_every_row_of_every_type_is_what_pyarrow_reads(tmp_path):
    """Empty row groups, view and large types, dictionaries, and shards whose columns differ."""
    kinds = [
        (pyarrow.binary(), pyarrow.string(), pyarrow.list_(pyarrow.string())),
        (pyarrow.binary_view(), pyarrow.string_view(), pyarrow.large_list(pyarrow.large_string())),
        (pyarrow.large_binary(), pyarrow.large_string(), pyarrow.list_(pyarrow.string_view())),
        (pyarrow.binary(), pyarrow.dictionary(pyarrow.int32(), pyarrow.string()), pyarrow.list_(pyarrow.string())),
    ]
    for number, (image, text, texts) in enumerate(kinds):
        rows = [encode(i) for i in range(6)]
        names = pyarrow.array([f"cap {i} é" for i in range(6)], pyarrow.string()).cast(text)
        columns = {"jpg": pyarrow.array(rows, image), "caption": names}
        if number % 2:
            columns = {"captions": pyarrow.array([[f"cap {i} é"] for i in range(6)], texts), "label": [*range(6)]}
            columns["image"] = pyarrow.array(rows, image)
        table = pyarrow.table(columns)
        with pyarrow.parquet.ParquetWriter(str(tmp_path / f"{number}.parquet"), table.schema) as writer:
            for part in (table[:0], table[:2], table[:0], table[2:4], table[4:], table[:0]):
                writer.write_table(part)
    source = ParquetSource(str(tmp_path))
    assert source.size == 24
    fetched = [source.fetch(index) for index in range(24)]
    read = in_graph(source)
    for index in range(24):
        shard, row = source.locate(index)
        expected = pyarrow.parquet.read_table(shard).to_pylist()[row]
        image = expected.get("jpg", expected.get("image"))
        captions = [text.encode() for text in expected.get("captions", [expected.get("caption")])]
        for example in (fetched[index], read[index]):
            assert example["image"] == image and example["captions"].tolist() == captions
            assert example["label"] == expected.get("label", -1)
        assert fetched[index]["id"] == f"{shard[-9:]}:{row}".encode()


def test_a_damaged_row_group_and_a_caption_that_is_not_utf8(tmp_path):
    texts = pyarrow.array([b"fine", b"caf\xe9", b"good"]).cast(pyarrow.string(), safe=False)
    assert texts.type == pyarrow.string()
    table = pyarrow.table({"jpg": [encode(i) for i in range(3)], "caption": texts})
    pyarrow.parquet.write_table(table, str(tmp_path / "a.parquet"))
    source = ParquetSource(str(tmp_path / "a.parquet"))
    assert [source.fetch(i)["captions"][0] for i in range(3)] == [b"fine", b"caf\xe9", b"good"]
    path = _write(tmp_path / "b.parquet", [_row(i) for i in range(6)])
    data = bytearray((tmp_path / "b.parquet").read_bytes())
    start = pyarrow.parquet.read_metadata(path).row_group(1).column(1).data_page_offset
    data[start : start + 8] = b"\xff" * 8
    (tmp_path / "b.parquet").write_bytes(data)
    source = ParquetSource(path)
    for _ in range(2):
        with pytest.raises(tf.errors.DataLossError, match="row group 1 of .*b.parquet cannot be read"):
            source.fetch(4)
    assert source.fetch(1)["image"] == encode(1)


def test_wrong_files(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"x")
    with pytest.raises(ValueError, match="is not a readable Parquet file"):
        ParquetSource(str(tmp_path))
    path = _write(tmp_path / "x.parquet", [{"jpg": b"", "words": ""}])
    with pytest.raises(ValueError, match=r"no column for \['captions'\]: name it. Its columns: jpg, words"):
        ParquetSource(path)
    with pytest.raises(ValueError, match=r"no columns \['w'\]"):
        ParquetSource(path, columns={"captions": "w"})
    path = _write(tmp_path / "y.parquet", [{"image": "a.png", "caption": "x"}])
    with pytest.raises(ValueError, match="images' column 'image' to hold bytes, or bytes and path. It holds 'string'"):
        ParquetSource(path)
    path = _write(tmp_path / "y.parquet", [{"image": b"a", "caption": 3}])
    with pytest.raises(ValueError, match="captions' column 'caption' to hold texts"):
        ParquetSource(path)
    with pytest.raises(ValueError, match=r"columns are named for .* Received: \['text'\]"):
        ParquetSource(path, columns={"text": "words"})
