"""CSV and TSV as other programs write them, with and without quoting; text files that are none."""

import csv
import io
import json

import pyarrow
import pyarrow.csv
import pytest

from siglip_tf.data.sources.tables import csv_rows, read_table

ROWS = [
    {"image": "a.png", "caption": 'a "quoted", comma\u2028and line'},
    {"image": "b.png", "caption": "two\nlines, and\ttab"},
    {"image": "c.png", "caption": '5" screen'},
    {"image": "d.png", "caption": ""},
    {"image": "e.png", "caption": "word " * 40_000},
]


def read(text: str, separator: str) -> list[dict]:
    return list(csv_rows(io.StringIO(text, newline=""), "t", separator))


def test_what_csv_and_pyarrow_write_is_read():
    for separator in ",\t;":
        for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL):
            for end in ("\n", "\r\n"):
                out = io.StringIO()
                writer = csv.DictWriter(out, ROWS[0], delimiter=separator, quoting=quoting, lineterminator=end)
                writer.writeheader()
                writer.writerows(ROWS)
                assert read(out.getvalue(), separator) == ROWS
        sink = pyarrow.BufferOutputStream()
        options = pyarrow.csv.WriteOptions(delimiter=separator)
        pyarrow.csv.write_csv(pyarrow.Table.from_pylist(ROWS), sink, options)
        assert read(sink.getvalue().to_pybytes().decode(), separator) == ROWS
    assert csv.field_size_limit() == 131072


def test_tables_without_quoting():
    """As CC3M's: a quote is a character like any other, and no row swallows the next."""
    text = 'image\tcaption\na.png\t"hello she said\nb.png\ta dog\nc.png\t5" screen\nd.png\tthe "last" one"\n'
    rows = read(text, "\t")
    assert [row["caption"] for row in rows] == ['"hello she said', "a dog", '5" screen', 'the "last" one"']
    plain = list(csv.DictReader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE))
    assert rows == plain
    assert read("image,caption\na.png\n", ",") == [{"image": "a.png", "caption": None}]


def test_faults_name_their_line(tmp_path):
    cases = {
        "a swallowing quote": (
            'image,caption\na.png,"hello\nb.png,a dog"\nc.png,x\n',
            "line 2: a quoted cell does not",
        ),
        "a quote to the end": ('image,caption\na.png,"hello\nmore text\n', "line 2: a quoted cell does not end"),
        "an unquoted comma": ("image,caption\na.png,one, two\n", "line 2: 3 cells where the first line names 2"),
        "another separator": ("image;caption\na.png;x\n", "separated by ','. Its first line holds ';' instead"),
        "tabs": ("image\tcaption\na.png\tx\n", r"separator=tab"),
        "two columns of a name": ("image,caption,caption\na,b,c\n", "names the column 'caption' twice"),
        "nothing": ("", "is empty"),
    }
    for name, (text, message) in cases.items():
        with pytest.raises(ValueError, match=message):
            read(text, ",")
        assert name
    assert list(read_table(_file(tmp_path, "semicolons.csv", b"image;caption\na.png;x\n"), ";")) == [
        {"image": "a.png", "caption": "x"}
    ]
    files = {
        "utf16.csv": ("image,caption\na.png,x\n".encode("utf-16"), "utf16.csv is UTF-16 text. Convert it"),
        "le.csv": ("image,caption\na.png,x\n".encode("utf-16-le"), "is UTF-16 text"),
        "latin.csv": (b"image,caption\na.png,ok\nb.png,caf\xe9\n", "is not UTF-8: line 3 holds the byte 0xE9"),
        "torn.csv.gz": (b"\x1f\x8b\x08", "is not a whole gzip file"),
        "torn.jsonl": (json.dumps(ROWS[0])[:-3].encode(), "torn.jsonl, line 1: Unterminated"),
        "torn.json": (b"[{", "is not JSON"),
        "document.jsonl": (b'[\n{"image": "a"}]', "line 1: .*name it .json"),
        "torn.parquet": (b"PAR1", "cannot be read as Parquet"),
    }
    for name, (content, message) in files.items():
        with pytest.raises(ValueError, match=message):
            list(read_table(_file(tmp_path, name, content)))


def _file(folder, name: str, content: bytes) -> str:
    (folder / name).write_bytes(content)
    return str(folder / name)
