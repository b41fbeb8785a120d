"""Image sets from any source that training can read, such as folders, tables, and shards."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from siglip_tf.data.order.bad_records import first_line
from siglip_tf.data.sources import open_source
from siglip_tf.data.sources.base import Source
from siglip_tf.evaluation.image_set import ImageSet, left_out_note, pad_labels

# Captions are used as classes only if their number is at most this fraction of the number of images.
_MOST_CLASSES = 0.5


def source_set(spec: str, split: str | None = None, class_names: Sequence[str] | None = None) -> ImageSet:
    """Returns the records of a source in order, with their captions and labels.

    Records without an image, records that cannot be read, and records with captions that are not UTF-8 are left out,
    and a note counts them. If records have no labels and one caption each, and only a few captions occur, those
    captions are used as classes.

    Args:
        spec: the source, as in `siglip_tf.data.sources.open_source`.
        split: the split of a folder, a table, or a TFDS data set.
        class_names: names for the labels, in order. The default is the source's own names.

    Raises:
        ValueError: if the source cannot be opened, no record can be used, or a label is outside `class_names`.
    """
    try:
        source = open_source(spec, split=split)
    except (tf.errors.OpError, OSError) as error:
        raise ValueError(f"{spec} cannot be opened: {_sentence(error)}") from error
    sound, rows, broken = [], [], {}
    for index in range(source.size):
        row, fault = _row(source, index)
        if row is None:
            shard, offset = source.locate(index)
            broken[f"{shard}, record {offset}"] = fault
        else:
            sound.append(index)
            rows.append(row)
    if not sound:
        first = next(iter(broken.items()), ("it", "holds no records"))
        raise ValueError(f"{spec}: none of its {source.size} records can be used; {first[0]}: {first[1]}.")
    captions = tuple(row["captions"] for row in rows)
    labels, names, notes = _classes(source, rows, captions, class_names)
    if broken:
        notes.append(left_out_note(source.size, broken))

    def read(index: tf.Tensor) -> dict[str, tf.Tensor]:
        example = source.read(index)
        return {"image": example["image"], "id": example["id"]}

    return ImageSet(
        source.name,
        tf.data.Dataset.from_tensor_slices(np.array(sound, np.int64)).map(read, tf.data.AUTOTUNE),
        tuple(row["id"] for row in rows),
        labels,
        names,
        captions if any(captions) else None,
        notes=tuple(notes),
    )


def _row(source: Source, index: int) -> tuple[dict[str, Any] | None, str]:
    """Returns a record's id, captions, and label and "", or None and the reason if it cannot be used."""
    try:
        example = source.fetch(index)
        cause = bytes(example.get("cause", b"")).decode()
        if cause not in ("", "missing_caption"):  # a record without a caption can still be classified
            return None, cause.replace("_", " ")
        if not bytes(example["image"]):
            return None, "missing image"
        captions = [bytes(caption).decode().strip() for caption in np.atleast_1d(example["captions"])]
    except UnicodeDecodeError as error:
        return None, f"not UTF-8 ({error.reason})"
    except (tf.errors.OpError, OSError) as error:
        return None, _sentence(error)
    label = example.get("label")
    return {
        "id": bytes(example["id"]).decode(errors="replace"),
        "captions": tuple(caption for caption in captions if caption),
        "label": -1 if label is None else int(label),
    }, ""


def _classes(
    source: Source, rows: list[dict[str, Any]], captions: Sequence[Sequence[str]], given: Sequence[str] | None
) -> tuple[np.ndarray | None, tuple[str, ...] | None, list[str]]:
    labels = [row["label"] for row in rows]
    names = given if given is not None else source.class_names
    if max(labels) >= 0:
        if names is None:
            return pad_labels(labels), None, []
        if max(labels) >= len(names):
            raise ValueError(f"{source.name} has a label {max(labels)}, and {len(names)} class names were given.")
        return pad_labels(labels), tuple(names), []
    distinct = sorted({caption for several in captions for caption in several})
    single = all(len(several) == 1 for several in captions)
    if not single or not 2 <= len(distinct) <= max(2, _MOST_CLASSES * len(rows)):
        return None, None, []
    if given is not None and set(distinct) - set(given):
        missing = sorted(set(distinct) - set(given))[0]
        raise ValueError(f"{source.name} has a caption {missing!r} that is none of the class names.")
    names = list(given) if given is not None else distinct
    number = {name: i for i, name in enumerate(names)}
    note = f"it has no labels: its {len(distinct)} captions are the classes"
    return pad_labels([number[several[0]] for several in captions]), tuple(names), [note]


def _sentence(error: Exception) -> str:
    return first_line(error) if isinstance(error, tf.errors.OpError) else str(error)
