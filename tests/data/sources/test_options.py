"""Options behind a source: one syntax for every kind, and refusals by name."""

import pyarrow
import pyarrow.parquet
import pytest

from siglip_tf.data.sources import open_source
from siglip_tf.data.sources.options import split_options
from tests.data.memory_source import encode
from tests.data.sources.test_tar import write_shard
from tests.data.sources.test_tfrecord import serialize, write


def test_syntax():
    lines = {
        "a/b.csv": ("a/b.csv", {}),
        "a?caption=title&image=url_path": ("a", {"caption": "title", "image": "url_path"}),
        "shard-????.tar": ("shard-????.tar", {}),
        "shard-????.tar?caption=a%26b": ("shard-????.tar", {"caption": "a&b"}),
        "a?b/c.tar": ("a?b/c.tar", {}),
        "t.csv?separator=;": ("t.csv", {"separator": ";"}),
    }
    assert {line: split_options(line) for line in lines} == lines
    for line, message in {
        "a?b=": "Received: 'b='",
        "a?b=1&c": "Received: 'c'",
        "a?b=1&b=2": "'b' occurs twice",
    }.items():
        with pytest.raises(ValueError, match=message):
            split_options(line)


def test_every_kind_takes_names(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x/a.png").write_bytes(encode(1))
    (tmp_path / "x/t.csv").write_text("pic;title;nummer;sprache\na.png;hello;3;de\n")
    sample = {"left.png": encode(1), "right.png": encode(2), "json": '{"title": "hello", "nummer": 3, "sprache": "de"}'}
    write_shard(tmp_path / "0.shard", [{"__key__": "k", **sample}])
    record = serialize(pic=encode(1), title="hello", nummer=3, sprache="de", txt="other", jpg=b"other")
    write(tmp_path / "0.records", [record])
    row = {"pic": encode(1), "title": "hello", "nummer": 3, "sprache": "de", "image": b"", "caption": "other"}
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), str(tmp_path / "0.rows"))
    names = "image=pic&caption=title&label=nummer&language=sprache"
    lines = [
        f"{tmp_path}/x?{names}&separator=;",
        f"{tmp_path}?kind=tar&suffix=.shard&{names.replace('pic', 'left.png')}",
        f"{tmp_path}?kind=tfrecord&suffix=.records&{names}&index_dir={tmp_path}/index",
        f"{tmp_path}?kind=parquet&suffix=.rows&{names}",
    ]
    for line in lines:
        source = open_source(line)
        example = source.fetch(0)
        assert source.size == 1 and source.notes
        assert (example["image"], example["captions"].tolist()) == (encode(1), [b"hello"]), line
        assert (int(example["label"]), example["language"].tolist()) == (3, [b"de"]), line
    assert open_source("synthetic?seed=3&split=test&size=5").size == 5
    assert open_source("synthetic?level=crowded&size=5").level == "crowded"
    assert open_source("scenes?languages=de,fr").languages == ("de", "fr")


def test_refusals_name_the_option(tmp_path):
    write_shard(tmp_path / "a.tar", [{"__key__": "k", "png": encode(1), "txt": "x"}])
    cases = {
        f"{tmp_path}?captoin=title": "has an unknown option 'captoin'. Options: kind, suffix, split, image, caption",
        f"{tmp_path}?template=a": "read as tar, has no option 'template'. Its options: caption, group, image, index",
        f"{tmp_path}?split=test": "Shards have no splits: name those of 'test' by their paths",
        f"{tmp_path}?kind=zip": "kind must be one of folder, classes, tar, tfrecord, parquet. Received: 'zip'",
        f"{tmp_path}?suffix=.shard": "The kind of shards in '.shard' files is unknown: name it",
        "synthetic?seed=x": "seed must be a whole number. Received: 'x'",
        f"{tmp_path}/nowhere": "Expected a folder of shards or images",
    }
    for line, message in cases.items():
        with pytest.raises(ValueError, match=message):
            open_source(line)
    with pytest.raises(ValueError, match="The split is 'a' and, in 'synthetic.split=b', 'b'. Name one"):
        open_source("synthetic?split=b", split="a")
