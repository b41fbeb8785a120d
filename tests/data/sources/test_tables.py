"""CSV and TSV as other programs write them, with and without quoting; text files that are none."""

import csv
import io
import json

import pyarrow
import pyarrow.csv
import pytest

from siglip_tf.data.sources.tables.reading import csv_rows, read_table, refuse_hopeless, refuse_other_encoding
from siglip_tf.data.sources.tables.rows import BrokenRow

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
        "latin.csv": (
            b"image,caption\na.png,\xe0\nb.png,caf\xe9\n",
            "is not UTF-8: line 2 holds .* 2 of 2 rows are like this",
        ),
        "torn.csv.gz": (b"\x1f\x8b\x08", "is not a whole gzip file"),
        "torn.jsonl": (json.dumps(ROWS[0])[:-3].encode(), "torn.jsonl, line 1: Unterminated"),
        "torn.json": (b"[{", "is not JSON"),
        "document.jsonl": (b'[\n{"image": "a"}]', "line 1: .*rename it to .json"),
        "torn.parquet": (b"PAR1", "cannot be read as Parquet"),
    }
    for name, (content, message) in files.items():
        with pytest.raises(ValueError, match=message):
            rows = list(read_table(_file(tmp_path, name, content)))
            refuse_hopeless(rows)
            refuse_other_encoding(rows)


def test_a_broken_line_spoils_itself_alone(tmp_path):
    """Each line is a row or a broken row, whatever stands before it: none is swallowed, and none is lost."""
    cases = {
        "a swallowing quote": (
            'image,caption\na.png,"hello\nb.png,a dog"\nc.png,x\n',
            {2: "a quoted cell does not"},
            2,
        ),
        "swallowing a broken row": (
            'image,caption\na.png,"hello\nb.png,a, dog\nc.png,x "y"\nd.png,z\n',
            {2: "a quoted cell does not", 3: "3 cells where"},
            2,
        ),
        "a quote to the end": (
            'image,caption\nb.png,x\na.png,"hello\nmore text\n',
            {3: "a quoted cell does not end"},
            2,
        ),
        "an unquoted comma": (
            "image,caption\na.png,one, two\nb.png,x\n",
            {2: "3 cells where the first line names 2"},
            1,
        ),
        "a quote within": ('image,caption\na.png,"x"y\nb.png,"a\nb"\nc.png,\n', {2: "a quoted cell does not"}, 2),
    }
    for name, (text, broken, sound) in cases.items():
        rows = read(text, ",")
        found = {row.number: row.problem for row in rows if isinstance(row, BrokenRow)}
        assert found.keys() == broken.keys() and len(rows) - len(found) == sound, name
        assert all(found[line].startswith(problem) for line, problem in broken.items()), name
        refuse_hopeless(rows)
    lines = [json.dumps({"image": f"{i}.png", "caption": "x"}) for i in range(6)]
    lines[1], lines[3], lines[4] = lines[1][:-5], "[1]", "NaN,"
    rows = list(read_table(_file(tmp_path, "t.jsonl", "\n".join(lines).encode())))
    assert [isinstance(row, BrokenRow) for row in rows] == [False, True, False, True, True, False]
    assert str(rows[1]).startswith(f"{tmp_path}/t.jsonl, line 2: Expecting")
    rows = list(
        read_table(_file(tmp_path, "t.json", b'[{"image": "a.png", "caption": "caf\xe9"}, 7, {"image": "b.png"}]'))
    )
    assert str(rows[1]).endswith("t.json, entry 2: expected an object. Received: 7") and rows[0].where == "entry 1"
    assert rows[0]["caption"].encode(errors="surrogateescape") == b"caf\xe9"


def _file(folder, name: str, content: bytes) -> str:
    (folder / name).write_bytes(content)
    return str(folder / name)
