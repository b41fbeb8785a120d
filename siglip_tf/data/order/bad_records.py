"""Finds out why a record could not be used, and writes a report that names every such record."""

import enum
import json
import re
from collections import Counter
from typing import Any

import numpy as np
import tensorflow as tf

from siglip_tf.data.images.header import image_size
from siglip_tf.data.images.other_formats import described
from siglip_tf.data.preprocessing import ImagePreprocessing
from siglip_tf.data.sources.base import Source
from siglip_tf.data.text.captions import encoding_fault, is_blank
from siglip_tf.op_errors import op_errors

# Lines of a graph error that say where an op was made and not what is wrong.
_TRACE = re.compile(r"\s*($|Graph execution error|Detected at|Defined at|File |<stack|\[\[|node )")


class Cause(enum.StrEnum):
    """Why a record is skipped. Indexes on disk store the position of a cause in this list: add new ones at the end."""

    UNDECODABLE_IMAGE = "undecodable_image"
    MISSING_IMAGE = "missing_image"
    MISSING_CAPTION = "missing_caption"
    NOT_UTF8 = "not_utf8"
    TOO_MANY_PIXELS = "too_many_pixels"
    TORN_RECORD = "torn_record"
    TORN_SHARD = "torn_shard"
    EMPTY_SHARD = "empty_shard"
    UNREADABLE = "unreadable"
    WRONG_COUNT = "wrong_count"
    BROKEN_ROW = "broken_row"


class TooManyBadRecordsError(ValueError):
    """More records are broken than the limit allows."""

    @classmethod
    def within(cls, error: tf.errors.OpError) -> "TooManyBadRecordsError | None":
        """Returns the error of this class inside a TensorFlow error that wraps it, or None."""
        found = re.search(rf"{cls.__name__}: (.*)", str(error.message))
        return None if found is None else cls(found[1])


def diagnose(example: dict[str, Any], image: ImagePreprocessing | None) -> tuple[Cause, str] | None:
    """Finds out why an example cannot be used.

    Args:
        example: what `Source.fetch` returns.
        image: the preprocessing of the images. None does not decode them.

    Returns:
        The cause and a detail for people, or None if the example can be used.
    """
    if known := bytes(example.get("cause", b"")).decode():
        return Cause(known), bytes(example.get("detail", b"")).decode(errors="replace")
    return _wrong_captions(example["captions"]) or _wrong_image(bytes(example["image"]), image)


def _wrong_captions(captions: Any) -> tuple[Cause, str] | None:
    captions = [bytes(caption) for caption in np.atleast_1d(captions)]
    if fault := encoding_fault(captions):
        return Cause.NOT_UTF8, fault
    return (Cause.MISSING_CAPTION, "") if all(is_blank(caption.decode()) for caption in captions) else None


def _wrong_image(data: bytes, image: ImagePreprocessing | None) -> tuple[Cause, str] | None:
    if not data:
        return Cause.MISSING_IMAGE, ""
    if image is None:
        return None
    try:
        height, width = image_size(tf.constant(data)).numpy().tolist()
        if height * width > image.max_pixels:
            return Cause.TOO_MANY_PIXELS, f"the header announces {width} x {height} pixels"
        with op_errors():
            image.pixels(tf.constant(data))
    except tf.errors.InvalidArgumentError as error:
        said, listed, _ = first_line(error).partition("; it begins with the bytes:")
        return Cause.UNDECODABLE_IMAGE, f"{said}; it is {described(data)}" if listed else said
    return None


def first_line(error: tf.errors.OpError) -> str:
    """Returns an op's error message without the graph's names. Of an assertion, returns its message and values."""
    _, asserted, values = str(error.message).partition("Summarized data: ")
    if asserted:
        return " ".join(line.strip().removeprefix("b").strip("'") for line in values.splitlines())[:200]
    if failed := re.search(r"assertion failed: \[(.*?)\]", str(error.message)):  # inside a tf.function
        return failed[1][:200]
    lines = [line for line in str(error.message).splitlines() if not _TRACE.match(line)] or [""]
    return re.sub(r"\{\{.*?\}\} ?| ?\[Op:.*?\]", "", lines[0])[:200]


class BadRecordReport:
    """A JSONL file with a line for each broken record: shard, offset, id, cause, detail.

    A record that comes again, in a later epoch or after a restart, gets no second line. Every line is written
    immediately.

    Args:
        path: a path on a local or mounted disk. An existing report is continued. None keeps no file.

    Attributes:
        by_cause: number of records by the value of `Cause`.
        first: the first entries that this process added, at most `SHOWN`.

    Raises:
        ValueError: an existing file is not such a report.
    """

    SHOWN = 100

    def __init__(self, path: str | None):
        self.path = path
        self.first: list[dict[str, Any]] = []
        self._seen: dict[tuple[str, int], Cause] = {}
        self.by_cause: Counter[str] = Counter()
        if path is not None and tf.io.gfile.exists(path):
            self._continue(path)
        elif path is not None:
            tf.io.gfile.makedirs(path.rpartition("/")[0] or ".")

    def _continue(self, path: str) -> None:
        with tf.io.gfile.GFile(path) as file:
            lines = file.read().split("\n")
        # A kill can truncate the last line. Its record will come again.
        whole = lines[:-1]
        for number, line in enumerate(whole, 1):
            try:
                entry = json.loads(line)
                self._seen[entry["shard"], entry["offset"]] = Cause(entry["cause"])
                self.by_cause[entry["cause"]] += 1
            except (ValueError, TypeError, KeyError) as error:
                raise ValueError(
                    f"{path}, line {number} is not a line of a report of bad records: {error}. Name another file."
                ) from error
        if lines[-1]:
            with tf.io.gfile.GFile(path, "w") as file:
                file.write("".join(line + "\n" for line in whole))

    def __len__(self) -> int:
        return len(self._seen)

    def known(self, shard: str, offset: int) -> Cause | None:
        """Returns the cause of a record, or None if the record is not in the report."""
        return self._seen.get((shard, offset))

    def add(self, shard: str, offset: int, cause: Cause, detail: str = "", identifier: str = "") -> None:
        """Adds a record, if it is not in the report yet."""
        if (shard, offset) in self._seen:
            return
        self._seen[shard, offset] = cause
        self.by_cause[cause.value] += 1
        entry = {"shard": shard, "offset": offset, "id": identifier, "cause": cause.value, "detail": detail}
        if len(self.first) < self.SHOWN:
            self.first.append(entry)
        if self.path is not None:
            with open(self.path, "a") if "://" not in self.path else tf.io.gfile.GFile(self.path, "a") as file:
                file.write(json.dumps(entry) + "\n")


class Explainer:
    """Finds out why records did not arrive, and adds them to a report.

    Args:
        report: the report.
        image: the preprocessing of the images.
        certain: whether a record that did not arrive has certainly been skipped, even if it can be read now.
    """

    def __init__(self, report: BadRecordReport, image: ImagePreprocessing, certain: bool = True):
        self._report = report
        self._image = image
        self._certain = certain
        self._unreadable: dict[str, str] = {}

    def __call__(self, source: Source, record: int) -> Cause | None:
        """Returns the cause, or None for a sound record that may still arrive."""
        shard, offset = source.locate(record)
        if known := self._report.known(shard, offset):
            return known
        identifier, found = "", None
        if shard in self._unreadable:  # The shard may hold thousands of records; do not try each of them again.
            found = Cause.UNREADABLE, self._unreadable[shard]
        else:
            try:
                example = source.fetch(record)
                identifier = bytes(example["id"]).decode(errors="replace")
                found = diagnose(example, self._image)
            except (tf.errors.DataLossError, tf.errors.InvalidArgumentError) as error:  # of this record's bytes
                found = Cause.TORN_RECORD, first_line(error)
            except tf.errors.OpError as error:
                self._unreadable[shard] = first_line(error)
                found = Cause.UNREADABLE, self._unreadable[shard]
        if found is None and self._certain:
            found = Cause.UNREADABLE, "could be read when tried again"
        if found is None:
            return None
        self._report.add(shard, offset, *found, identifier)
        return found[0]
