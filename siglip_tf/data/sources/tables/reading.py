"""Reads tables of captions as rows: JSON Lines, JSON, CSV, TSV, Parquet. Text formats may be compressed (.gz).

A line that cannot be understood is a `BrokenRow`, which the caller counts. A whole table is refused if it cannot be
opened, if it names no columns, or if more than half of its rows are broken.
"""

import collections
import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import Any, TextIO

from siglip_tf.data.sources.listing import is_picture
from siglip_tf.data.sources.paths import open_binary
from siglip_tf.data.sources.tables.json_documents import rows_of_json
from siglip_tf.data.sources.tables.rows import SHOWN, BrokenRow, Row, shown

_KINDS = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "tsv", ".tab": "tsv",
    ".parquet": "parquet", ".pq": "parquet",
}  # fmt: skip
SUFFIXES = tuple(_KINDS)
_SEPARATORS = {"csv": ",", "tsv": "\t"}
# A quoted cell may hold line breaks. The limit keeps a stray quote from turning the rest of a table into one cell.
_LINES_A_CELL = 1000
# The csv module's own limit is 131,072 characters.
_MAX_CELL = 1 << 30


def table_kind(name: str) -> str | None:
    """Returns "jsonl", "json", "csv", "tsv", or "parquet" for a file's name in any case, or None if it is no table."""
    name = name.lower()
    kind = _KINDS.get("." + name.removesuffix(".gz").rpartition(".")[2])
    return None if kind == "parquet" and name.endswith(".gz") else kind


def read_table(path: str, separator: str | None = None) -> Iterator[Row | BrokenRow]:
    """Yields the rows of a table: a `Row`, which is a dictionary by column, or a `BrokenRow`.

    Text that is not UTF-8 stays in its row as surrogate escapes, so that the row can be counted.

    Args:
        path: a file whose suffix says its kind. A `.txt` file is read as TSV if its first line has a tab, and as CSV
            otherwise.
        separator: the separator of a CSV or TSV file, if it is not a comma or a tab.

    Raises:
        ValueError: the file cannot be read as the kind that its name says.
    """
    kind = table_kind(path)
    if kind == "parquet":
        yield from _parquet_rows(path)
        return
    text = read_text(path, errors="surrogateescape")
    if kind == "json":
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is not JSON: {shown(error)}") from error
        yield from rows_of_json(content, path)
        return
    # Do not use str.splitlines, because captions may hold other line separators.
    lines = io.StringIO(text, newline="")
    if kind == "jsonl":
        yield from _jsonl_rows(lines, path)
        return
    if separator is None:
        head = text.partition("\n")[0]
        separator = _SEPARATORS.get(kind or "", "\t" if "\t" in head else ",")
    yield from csv_rows(lines, path, separator)


def read_text(path: str, errors: str = "strict") -> str:
    """Reads the text of a UTF-8 file without its byte order mark. A `.gz` file is decompressed.

    Args:
        path: the path of the file.
        errors: how to treat bytes that are not UTF-8; see `bytes.decode`.

    Raises:
        ValueError: the file is not UTF-8, or not a complete gzip file.
    """
    with open_binary(path) as file:
        data = file.read()
    if path.lower().endswith(".gz"):
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{path} is not a whole gzip file: {shown(error)}") from error
    check_not_utf16(data[:1024], path)
    try:
        return data.decode("utf-8-sig", errors)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path} is not UTF-8: line {line} holds the byte 0x{data[error.start]:02X}, which is invalid there. "
            "Convert the file first, e.g. by `iconv -f LATIN1 -t UTF-8`."
        ) from error


def check_not_utf16(head: bytes, path: str) -> None:
    """Raises an error if a file begins like UTF-16 or UTF-32.

    Raises:
        ValueError: it does; the message names the command that converts it.
    """
    marked = head[:2] in (b"\xff\xfe", b"\xfe\xff")
    if marked or head[1::2].count(0) * 3 > len(head) or head[::2].count(0) * 3 > len(head):
        wide = "UTF-32" if head[:4] in (b"\xff\xfe\0\0", b"\0\0\xfe\xff") else "UTF-16"
        raise ValueError(f"{path} is {wide} text. Convert it to UTF-8 first: `iconv -f {wide} -t UTF-8 {path}`.")


def refuse_hopeless(rows: Sequence[Row | BrokenRow]) -> None:
    """Raises an error if more than half of the rows cannot be understood.

    Raises:
        ValueError: they cannot; the message shows the first of them.
    """
    broken = [row for row in rows if isinstance(row, BrokenRow)]
    if 2 * len(broken) > len(rows):
        raise ValueError(f"{broken[0]}{_and_more(broken, rows)}")


def refuse_other_encoding(rows: Sequence[Row | BrokenRow]) -> None:
    """Raises an error if more than half of the rows are not UTF-8.

    Raises:
        ValueError: they are not; the message names the command that converts the file.
    """
    strange = [row for row in rows if isinstance(row, Row) and any(map(_is_escaped, row.values()))]
    if 2 * len(strange) > len(rows):
        raise ValueError(
            f"{strange[0].path} is not UTF-8: {strange[0].where} holds bytes that UTF-8 does not have."
            f"{_and_more(strange, rows)} Convert the file first, e.g. by `iconv -f LATIN1 -t UTF-8`."
        )


def _and_more(found: Sequence[Any], rows: Sequence[Any]) -> str:
    return f" {len(found)} of {len(rows)} rows are like this." if len(found) > 1 else ""


def _is_escaped(value: Any) -> bool:
    if isinstance(value, list):
        return any(map(_is_escaped, value))
    return isinstance(value, str) and not value.isascii() and any("\udc80" <= letter <= "\udcff" for letter in value)


def _jsonl_rows(lines: Iterable[str], path: str) -> Iterator[Row | BrokenRow]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            hint = " It looks like one JSON document: rename it to .json." if number == 1 and line[0] == "[" else ""
            yield BrokenRow(path, number, f"{shown(error)}.{hint}")
            continue
        if isinstance(row, dict):
            yield Row(row, path, number)
        else:
            yield BrokenRow(path, number, f"expected an object. Received: {line.strip()[:SHOWN]}")


def _parquet_rows(path: str) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        with open_binary(path) as file:
            rows = pyarrow.parquet.read_table(file).to_pylist()
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as Parquet: {shown(error)}") from error
    yield from (Row(row, path, number, "row") for number, row in enumerate(rows, 1))


def csv_rows(lines: TextIO | Iterable[str], path: str, separator: str) -> Iterator[Row | BrokenRow]:
    """Yields the rows of a CSV or TSV file with a header. A cell that is a JSON list becomes a list.

    Quoting is that of CSV: a quoted cell may hold separators and line breaks. Tab-separated files are often written
    without quoting, so in these a quote that is not closed in its line is an ordinary character. A line with more cells
    than the header, or with an unclosed quote, is broken, and reading continues with the next line.

    Args:
        lines: the lines of the file with their line ends.
        path: its path, for error messages.
        separator: the separator between two cells.

    Raises:
        ValueError: there is no header, the separator is wrong, or a column occurs twice.
    """
    if len(separator) != 1 or separator in '"\r\n':
        raise ValueError(f"A separator is one character, or tab. Received: {separator!r}")
    numbered = _Lines(lines)
    header = _header(numbered, path, separator)
    for number, cells in _cells(numbered, path, separator, len(header)):
        if isinstance(cells, BrokenRow):
            yield cells
        else:  # In a row that ends early, the last cells are None.
            yield Row(zip_longest(header, map(_listed, cells)), path, number)


class _Lines:
    """Numbers lines, and lets the reader look ahead."""

    def __init__(self, lines: Iterable[str]):
        self._lines = iter(lines)
        self._ahead: collections.deque[str] = collections.deque()
        self.number = 0

    def peek(self, place: int = 0) -> str | None:
        """Returns the next line, or the line `place` lines after it, without taking it. Returns None after the end."""
        while len(self._ahead) <= place:
            line = next(self._lines, None)
            if line is None:
                return None
            self._ahead.append(line)
        return self._ahead[place]

    def take(self) -> str | None:
        """Takes and returns the next line, or None at the end."""
        if self.peek() is None:
            return None
        self.number += 1
        return self._ahead.popleft()


def _header(lines: _Lines, path: str, separator: str) -> list[str]:
    line = lines.take()
    while line is not None and not line.strip():
        line = lines.take()
    if line is None:
        raise ValueError(f"{path} is empty: expected a first line with the names of its columns.")
    header = [name.strip() for name in _split(line, separator) or line.rstrip("\r\n").split(separator)]
    if len(header) == 1:
        other = next((mark for mark in ("\t", ";", "|", ",") if mark != separator and mark in line), None)
        if other is not None:
            name = {"\t": "tab"}.get(other, other)
            raise ValueError(
                f"{path}: expected columns separated by {separator!r}. Its first line holds {other!r} instead: "
                f"write {path}?separator={name}, or convert the file. Received: {line.strip()[:SHOWN]!r}"
            )
    if twice := sorted({name for name in header if name and header.count(name) > 1}):
        raise ValueError(f"{path} names the column {twice[0]!r} twice in its first line.")
    return header


def _cells(
    lines: _Lines, path: str, separator: str, width: int
) -> Iterator[tuple[int, list[str]] | tuple[int, BrokenRow]]:
    """Yields the number of each row's first line, and the row's cells."""
    while (line := lines.take()) is not None:
        if not line.strip("\r\n"):
            continue
        number, cells = lines.number, _split(line, separator)
        plain = line.rstrip("\r\n").split(separator)
        if cells is None and separator == "\t" and len(plain) == width and _stands_alone(plain, lines.peek()):
            cells = plain
        if cells is None:
            cells = _joined(lines, line, separator, width)
        problem = ""
        if cells is None:
            problem = (
                "a quoted cell does not end where its row does. Close the quote, double a quote inside a cell, or "
                "write the table as .jsonl."
            )
        elif len(cells) > width:
            problem = (
                f"{len(cells)} cells where the first line names {width} columns. A cell with {separator!r} or a quote "
                "in it must be quoted."
            )
        if problem:
            yield number, BrokenRow(path, number, f"{problem} Received: {line.strip()[:SHOWN]!r}")
        else:
            yield number, cells


def _stands_alone(cells: list[str], following: str | None) -> bool:
    """Says whether a TSV row ends with its line, because the next line is a row and not the rest of a quoted cell."""
    if following is None:
        return True
    others = following.rstrip("\r\n").split("\t")
    return len(others) == len(cells) and (not _names_a_picture(cells) or _names_a_picture(others))


def _names_a_picture(cells: list[str]) -> bool:
    return any(is_picture(cell.strip('" ')) for cell in cells)


def _joined(lines: _Lines, line: str, separator: str, width: int) -> list[str] | None:
    """Returns the cells of a row whose quoted cell continues on the next lines, and takes them; None if it does not."""
    for place in range(_LINES_A_CELL):
        more = lines.peek(place)
        # A line that looks like a row is unlikely to be the rest of a caption.
        if more is None or (width > 1 and _like_row(more, separator)):
            return None
        line += more
        if '"' in more and (cells := _split(line, separator)) is not None:
            for _ in range(place + 1):
                lines.take()
            return cells
    return None


def _like_row(line: str, separator: str) -> bool:
    cells = line.rstrip("\r\n").split(separator)
    return len(cells) > 1 and _names_a_picture(cells)


def _split(line: str, separator: str) -> list[str] | None:
    """Splits a row into cells by CSV's quoting rules. Returns None if a quote is not closed."""
    if '"' not in line:
        return line.rstrip("\r\n").split(separator)
    limit = csv.field_size_limit(_MAX_CELL)
    try:
        rows = list(csv.reader([line], delimiter=separator, strict=True))
    except csv.Error:
        return None
    finally:
        csv.field_size_limit(limit)
    return rows[0] if len(rows) == 1 else None


def _listed(value: str) -> Any:
    """Returns a cell that is a JSON list as a list, and any other cell as it is."""
    if value.startswith("["):
        try:
            values = json.loads(value)
        except (ValueError, RecursionError):  # A caption may begin with a bracket.
            return value
        return values if isinstance(values, list) else value
    return value
