"""Reads text files of labels and captions. Only line feeds end lines, and every error names the file and the line."""

import contextlib
import csv
import io
import json
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf

from siglip_tf.data.sources.listing import IMAGE_SUFFIXES

_MAX_FIELD = 2**31 - 1  # the csv module's own limit is 131,072 characters
_IMAGE_COLUMNS = ("image", "image_name", "file", "filename", "file_name", "file_path", "filepath", "path")
_CAPTION_COLUMNS = ("caption", "comment", "raw", "text", "sentence", "title")


def read_text(path: str) -> str:
    """Returns the UTF-8 text of a file, without a byte order mark.

    Raises:
        ValueError: if the file does not exist, cannot be read, or is not UTF-8 text.
    """
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            data = file.read()
    except tf.errors.NotFoundError as error:
        raise ValueError(f"There is no file {path!r}.") from error
    except tf.errors.OpError as error:
        raise ValueError(f"{path} cannot be read: {str(error.message).splitlines()[0]}") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}.") from error


def lines_of(text: str) -> list[str]:
    """Splits text into lines that end with a line feed, with or without a carriage return before it.

    `str.splitlines` also splits at form feeds, U+0085, U+2028, and other characters, which occur inside real captions.
    """
    return text.replace("\r\n", "\n").split("\n")


def read_names(path: str) -> list[str]:
    """Reads class names, labels, or templates from a file.

    The file is a JSON list or has one name per line. Blank lines and lines that start with `#` are left out.

    Raises:
        ValueError: if the file does not exist, is empty, or is not UTF-8 text.
    """
    text = read_text(path)
    if text.lstrip().startswith("["):
        names = parse_json(text, path)
        if not all(isinstance(name, str) for name in names):
            raise ValueError(f"{path}: expected a JSON list of strings.")
    else:
        lines = (line.strip() for line in lines_of(text))
        names = [line for line in lines if line and not line.startswith("#")]
    if not names:
        raise ValueError(f"{path} holds no names.")
    return names


def parse_json(text: str, path: str) -> Any:
    """Returns the content of JSON text.

    Raises:
        ValueError: if the text is not JSON. The message names the file.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}.") from error


def read_json_lines(path: str) -> list[dict[str, Any]]:
    """Reads one JSON object per line.

    Raises:
        ValueError: if a line is not a JSON object. The message names the file and the line.
    """
    entries = []
    for number, line in enumerate(lines_of(read_text(path)), 1):
        if line.strip():
            entry = parse_json(line, f"{path}, line {number},")
            if not isinstance(entry, dict):
                raise ValueError(f"{path}, line {number}: expected a JSON object. Received: {line[:60]!r}.")
            entries.append(entry)
    return entries


@contextlib.contextmanager
def expected_shape(path: str, expected: str) -> Iterator[None]:
    """Converts errors from unexpected content into a ValueError that names the file and what was expected."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else f"is of another shape ({error})"
        raise ValueError(f"{path} {what}; expected {expected}.") from error


def captions_of_tokens(path: str) -> tuple[dict[str, list[str]], int]:
    """Returns captions by image file from lines of "<file>#<number>TAB<caption>", and how many lines have no tab.

    Raises:
        ValueError: if no line has that form.
    """
    captions: dict[str, list[str]] = {}
    left_out = 0
    for line in lines_of(read_text(path)):
        file, tab, caption = line.partition("\t")
        if tab:
            captions.setdefault(file.rsplit("#", 1)[0], []).append(caption.strip())
        else:
            left_out += bool(line.strip())
    if not captions:
        raise ValueError(f"{path} holds no line of <file>#<number>TAB<caption>.")
    return captions, left_out


def captions_of_table(path: str) -> tuple[dict[str, list[str]], int]:
    """Returns captions by image file from a table with a header, and the number of rows without a caption.

    The header names the columns ("image,caption", "image_name,comment_number,comment") and determines the separator: a
    comma, a bar, a tab, or a semicolon. Fields may be quoted; a quoted field may contain line breaks.

    Raises:
        ValueError: if there is no such header, or a quotation mark is not closed.
    """
    text = read_text(path)
    header, image, caption, separator = _header(lines_of(text)[0], path)
    captions: dict[str, list[str]] = {}
    left_out = 0
    for number, row in _rows(text, separator, path):
        if number == 1 or not any(field.strip() for field in row):
            continue
        if len(row) > len(header) and caption == len(header) - 1:
            # The caption contains separators, but it is not quoted.
            row = [*row[:caption], separator.join(row[caption:])]
        if len(row) <= max(image, caption):
            left_out += 1
            continue
        _refuse_swallowed(row[caption], separator, f"{path}, line {number}")
        captions.setdefault(row[image].strip(), []).append(row[caption].strip())
    if not captions:
        raise ValueError(f"{path} holds no row with an image and a caption.")
    return captions, left_out


def _header(line: str, path: str) -> tuple[list[str], int, int, str]:
    for separator in (",", "|", "\t", ";"):
        names = [name.strip().strip('"').lower() for name in line.split(separator)]
        image = next((names.index(name) for name in _IMAGE_COLUMNS if name in names), None)
        caption = next((names.index(name) for name in _CAPTION_COLUMNS if name in names), None)
        if image is not None and caption is not None:
            return names, image, caption, separator
    raise ValueError(
        f"{path}: expected a first line that names the columns, such as image,caption. Received: {line[:80]!r}."
    )


def _rows(text: str, separator: str, path: str) -> Iterator[tuple[int, list[str]]]:
    """Yields rows with the number of the line on which each begins."""
    former = csv.field_size_limit(_MAX_FIELD)
    # Fields that are separated by bars are never quoted, so a quotation mark is a normal character there.
    lines = io.StringIO(text, newline="")
    if separator == "|":
        reader = csv.reader(lines, delimiter=separator, quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(lines, delimiter=separator)
    try:
        line = 1
        for row in reader:
            yield line, row
            line = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: {error}.") from error
    finally:
        csv.field_size_limit(former)


def _refuse_swallowed(caption: str, separator: str, where: str) -> None:
    suffixes = "|".join(re.escape(suffix) for suffix in IMAGE_SUFFIXES)
    if re.search(rf"\n[^\n]*({suffixes})\"?{re.escape(separator)}", caption, re.IGNORECASE):
        raise ValueError(f"{where}: a quotation mark opens a caption and is never closed, so that rows are swallowed.")


def sound_files(paths: Sequence[str]) -> tuple[list[int], dict[int, str]]:
    """Returns the positions of the files that can be read, and the reasons for those that cannot, by position.

    Remote files are not checked, because a listing or a lookup has already found them.
    """
    missing = {i: reason for i, path in enumerate(paths) if (reason := _why_missing(path))}
    return [i for i in range(len(paths)) if i not in missing], missing


def _why_missing(path: str) -> str:
    if "://" in path or (os.path.isfile(path) and os.access(path, os.R_OK)):
        return ""
    if os.path.islink(path) and not os.path.exists(path):
        return "a link to a file that is not there"
    return "cannot be read" if os.path.exists(path) else "is not there"
