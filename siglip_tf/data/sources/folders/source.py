"""Image files with captions from a table, from texts beside them, or from the names of their folders."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from siglip_tf.data.order.bad_records import Cause
from siglip_tf.data.sources.base import Source, fingerprint_of
from siglip_tf.data.sources.class_names import spoken
from siglip_tf.data.sources.folders.layout import read_layout
from siglip_tf.data.sources.folders.tree import SPLITS
from siglip_tf.data.sources.groups import NO_GROUP, group_numbers
from siglip_tf.data.sources.paths import join
from siglip_tf.data.sources.tables.columns import CAPTIONS, IMAGES, choose
from siglip_tf.data.sources.tables.reading import refuse_hopeless
from siglip_tf.data.sources.tables.rows import BrokenRow, Row, shown
from siglip_tf.op_errors import RawBytesError

_SPLIT_PARTS = {"train": (0, 90), "validation": (90, 95), "test": (95, 100)}


class FolderSource(Source):
    """Image files of a folder with their captions. `siglip_tf.data.sources.folders.layout` lists the layouts.

    A table has a row for each pair or image. Its columns are "image" (or "file_name", "filepath", "path"), relative to
    the table's folder; "caption" or "captions" (a list, in CSV as JSON); and optionally "label" (an integer or a class
    name), "language", "group" (an integer or a text), and "split". Rows of the same image become one record with
    several captions. If each subfolder is a class, its name is the caption, with spaces for underscores.

    A row that cannot be understood is a broken record. Broken rows come after all other records.

    Args:
        folder: the folder, or the path of the table.
        split: "train", "validation", "test", or any value of the "split" column or any split that the folders name.
            If the data names no splits, a hash of the image's group (or of its name, without a group) assigns 90% of
            the images to "train" and 5% each to "validation" and "test". None takes all rows.
        image_column, caption_column, label_column, language_column, group_column: names of the columns, if they
            differ from those above.
        template: the caption of an image that has a class name and no caption, with `{}` for the name.
        classes: read the subfolders as classes, whatever other files are in the folder.
        separator: the separator of a CSV or TSV table, if it is not a comma or a tab. "tab" is a tab.

    Attributes:
        class_names: names of the labels, if labels are given as names or folders, and None otherwise.

    Raises:
        ValueError: the layout is not understood, a column is missing, the split is unknown, or more than half of a
            table cannot be understood.
    """

    def __init__(
        self,
        folder: str,
        *,
        split: str | None = None,
        image_column: str | None = None,
        caption_column: str | None = None,
        label_column: str | None = None,
        language_column: str | None = None,
        group_column: str | None = None,
        template: str = "{}",
        classes: bool = False,
        separator: str | None = None,
    ):
        separator = "\t" if separator == "tab" else separator
        if "{}" not in template:
            raise ValueError(f"Expected a template with {{}} for the name of the class. Received: {template!r}")
        layout = read_layout(str(folder), classes=classes, separator=separator, image=image_column)
        columns = dict.fromkeys(key for row in layout.rows[:1000] if isinstance(row, Row) for key in row)
        image = choose(columns, image_column, IMAGES, layout.where)
        for given in (caption_column, label_column, language_column, group_column):
            if given is not None:
                choose(columns, given, (), layout.where)
        label, language = label_column or "label", language_column or "language"
        group = group_column or "group"
        caption = caption_column or next((name for name in CAPTIONS if name in columns), None)
        if caption is None and label not in columns:
            choose(columns, None, CAPTIONS, layout.where)
        records, broken = _grouped(layout.rows, image, caption, label, language, group, layout.where)
        # Number the labels before splitting, so that a label means the same in each split.
        self.class_names = _number_labels(records, template, layout.classes)
        if caption is None and self.class_names is None:
            raise ValueError(
                f"{layout.where} has no captions, and labels without names: expected one of the columns "
                f"{', '.join(CAPTIONS)}, or class names as labels."
            )
        self.notes = (layout.note, *_split_notes(records, split), *_broken_notes(broken))
        if split is not None:
            records, broken = _of_split(records, broken, split, layout.where)
        self.name = layout.where + (f" ({split})" if split else "")
        self.size = len(records) + len(broken)
        contents = [(r["image"], r["captions"], r["label"]) for r in records]
        contents += [("broken", row.path.rpartition("/")[2], row.number) for row in broken]
        groups = [*(record["group"] for record in records), *(NO_GROUP for _ in broken)]
        self.has_groups = any(group != NO_GROUP for group in groups)
        self.fingerprint = fingerprint_of("folder", map(repr, contents), *([groups] if self.has_groups else []))
        self._groups = tf.constant(groups, tf.int64)
        self._paths = [r["image"] if "://" in r["image"] or r["image"][0] == "/" else join(layout.root, r["image"])
                       for r in records]  # fmt: skip
        self._broken = broken
        # A broken row has an empty file name, so that reading it fails.
        records += [{"image": "", "captions": [], "label": None} for _ in broken]
        self._images = tf.constant([_encoded(path) for path in (*self._paths, *("" for _ in broken))])
        self._ids = tf.constant([_encoded(record["image"]) for record in records])
        self._labels = tf.constant([-1 if r["label"] is None else r["label"] for r in records], tf.int32)
        counts = [len(record["captions"]) for record in records]
        self._starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        pairs = [pair for record in records for pair in record["captions"]]
        self._captions = tf.constant([_encoded(text) for text, _ in pairs], tf.string)
        self._languages = tf.constant([_encoded(language) for _, language in pairs], tf.string)
        self.languages = sorted({language for _, language in pairs if language})
        self._has_labels = any(record["label"] is not None for record in records)

    def read(self, index: tf.Tensor) -> dict[str, tf.Tensor]:
        """Reads one raw example in the graph."""
        begin, end = tf.gather(self._starts, index), tf.gather(self._starts, index + 1)
        example = {
            "image": tf.io.read_file(tf.gather(self._images, index)),
            "captions": self._captions[begin:end],
            "id": tf.gather(self._ids, index),
        }
        if self._has_labels:
            example["label"] = tf.gather(self._labels, index)
        if self.has_groups:
            example["group"] = tf.gather(self._groups, index)
        if self.languages:
            example["language"] = self._languages[begin:end]
        return example

    def fetch(self, index: int) -> dict[str, Any]:
        """Reads one raw example outside the graph. A missing file is an empty image; a broken row has a cause."""
        if index >= len(self._paths):
            row = self._broken[index - len(self._paths)]
            found = {"cause": row.cause.value.encode(), "detail": _encoded(row.problem)}
            return {"image": b"", "captions": np.zeros([0], object), "id": b"", **found}
        try:
            return super().fetch(index)
        # TensorFlow's message holds the file's name, which may not be UTF-8.
        except (tf.errors.NotFoundError, RawBytesError):
            captions = self._captions[self._starts[index] : self._starts[index + 1]].numpy()
            return {"image": b"", "captions": captions, "id": self._ids[index].numpy()}

    def locate(self, index: int) -> tuple[str, int]:
        """Returns the image file and 0. For a broken row, returns the table and the number of its line or entry."""
        if index >= len(self._paths):
            row = self._broken[index - len(self._paths)]
            return row.path, row.number
        return self._paths[index], 0


def _encoded(text: str) -> bytes:
    """Returns the bytes of a text. Bytes that were not UTF-8, and lone surrogates, stay invalid, to be counted."""
    try:
        return text.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        return text.encode(errors="surrogatepass")


def _grouped(
    rows: Sequence[Row | BrokenRow],
    image: str,
    caption: str | None,
    label: str,
    language: str,
    group: str,
    where: str,
) -> tuple[list[dict[str, Any]], list[BrokenRow]]:
    """Groups the rows by image.

    Returns:
        One record per image, in the order of first appearance: "image", "captions" [(text, language)], "label", "group"
        (a number), "split"; and the broken rows.

    Raises:
        ValueError: most rows are broken, an image is in two splits or groups, or a group is neither a whole number nor
            a text.
    """
    records: dict[str, dict[str, Any]] = {}
    checked = [row if isinstance(row, BrokenRow) else _wrong(row, image, caption, language) or row for row in rows]
    refuse_hopeless(checked)
    sound = [row for row in checked if isinstance(row, Row)]
    groups = group_numbers((row.get(group) for row in sound), f"column {group!r} of {where}").tolist()
    for row, number in zip(sound, groups, strict=True):
        name = row[image]
        texts, languages = _texts_and_languages(row, caption, language)
        fresh = {"image": name, "captions": [], "label": row.get(label), "split": row.get("split")}
        fresh["group"] = number
        record = records.setdefault(name, fresh)
        if record["split"] and fresh["split"] and record["split"] != fresh["split"]:
            raise ValueError(f"{where}: {shown(name)} is in two splits, {record['split']!r} and {fresh['split']!r}.")
        if NO_GROUP not in (record["group"], fresh["group"]) and record["group"] != fresh["group"]:
            values = next(r.get(group) for r in sound if r.get(image) == name), row.get(group)
            raise ValueError(f"{where}: {shown(name)} is in two groups, {values[0]!r} and {values[1]!r}.")
        record["group"] = max(record["group"], fresh["group"])
        record["captions"] += [
            (text, str(spoken_in or ""))
            for text, spoken_in in zip(texts, languages, strict=True)
            if isinstance(text, str)
        ]
    return list(records.values()), [row for row in checked if isinstance(row, BrokenRow)]


def _wrong(row: Row, image: str, caption: str | None, language: str) -> BrokenRow | None:
    """Returns a broken row that says what is wrong with a row, or None."""
    name = row.get(image)
    if not isinstance(name, str) or not name:
        return row.broken(f"names no image in column {image!r}: {shown(row)}", Cause.MISSING_IMAGE)
    if "\0" in name:
        return row.broken(f"names an image with a NUL in it: {shown(name)}", Cause.MISSING_IMAGE)
    if name.startswith(("http://", "https://")):
        return row.broken(
            f"names its image by an address ({shown(name)}): download the images first, e.g. by img2dataset.",
            Cause.MISSING_IMAGE,
        )
    texts, languages = _texts_and_languages(row, caption, language)
    if len(languages) != len(texts):
        return row.broken(f"has {len(texts)} captions and {len(languages)} languages: {shown(row)}")
    return None


def _texts_and_languages(row: Row, caption: str | None, language: str) -> tuple[list[Any], list[Any]]:
    texts = row.get(caption) if caption else None
    texts = texts if isinstance(texts, list) else [texts]
    languages = row.get(language)
    return texts, languages if isinstance(languages, list) else [languages] * len(texts)


def _broken_notes(broken: Sequence[BrokenRow]) -> list[str]:
    if not broken:
        return []
    return [f"{len(broken)} rows cannot be used and count as broken records; the first: {broken[0]}"]


def _named_splits(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the splits that a table or the folders name."""
    return sorted({str(record["split"]) for record in records if record["split"]})


def _split_notes(records: Sequence[Mapping[str, Any]], split: str | None) -> list[str]:
    named = _named_splits(records)
    if split is not None or len(named) < 2:
        return []
    return [f"all splits are read together ({', '.join(named)}): choose one by ?split={named[-1]}"]


def _of_split(
    records: list[dict[str, Any]], broken: list[BrokenRow], split: str, where: str
) -> tuple[list[dict[str, Any]], list[BrokenRow]]:
    """Returns the records of a split. A broken row whose split is unknown belongs to every split of the data."""
    if known := _named_splits(records):

        def is_in(value: str | None) -> bool:
            # "val" and "validation", for example, are two usual names of the same split.
            part = None if split in known else SPLITS.get(split.lower())
            return str(value) == split if part is None else SPLITS.get(str(value).lower()) == part

        chosen = [record for record in records if is_in(record["split"])]
        broken = [row for row in broken if row.split is None or is_in(row.split)]
    else:
        known = list(_SPLIT_PARTS)
        first, end = _SPLIT_PARTS.get(split, (0, 0))
        chosen = [record for record in records if first <= _percentile(_drawn_by(record)) < end]
        broken = [row for row in broken if first <= _percentile(f"{row.path.rpartition('/')[2]}:{row.number}") < end]
    if not chosen:
        raise ValueError(f"split must be one of {known} with at least one image of {where}. Received: {split!r}")
    return chosen, broken


def _drawn_by(record: Mapping[str, Any]) -> str:
    """Returns the text whose hash decides a record's split. Pictures of one group stay together."""
    return record["image"] if record["group"] == NO_GROUP else f"group {record['group']}"


def _percentile(name: str) -> int:
    return int.from_bytes(hashlib.sha256(_encoded(name)).digest()[:8]) % 100


def _number_labels(records: list[dict[str, Any]], template: str, classes: bool) -> list[str] | None:
    """Makes labels integers or None, and makes captions from names of labels for records without captions.

    Args:
        records: records with labels as they were read; changed in place.
        template: the template of those captions.
        classes: whether labels are names even if all are numbers.

    Returns:
        The sorted names of the labels, or None if the labels are integers.
    """
    given = {str(record["label"]) for record in records if record["label"] not in (None, "")}
    # Numbers beyond int32 are names, such as article numbers.
    numbers = all(label.removeprefix("-").isdecimal() and abs(int(label)) < 1 << 31 for label in given)
    # If all names are numbers, sort by number, so that folder "10" is class 10 after folders "0" to "9".
    names = sorted(given, key=lambda name: (int(name), name) if numbers else name) if classes or not numbers else None
    places = {name: place for place, name in enumerate(names or ())}
    for record in records:
        if record["label"] in (None, ""):
            record["label"] = None
        elif names is None:
            record["label"] = int(record["label"])
        else:
            name = str(record["label"])
            record["label"] = places[name]
            record["captions"] = record["captions"] or [(template.replace("{}", spoken(name)), "")]
    return names
