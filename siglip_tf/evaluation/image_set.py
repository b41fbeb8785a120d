"""A set of encoded images to evaluate on, with the bytes as a tf.data data set and labels and captions as arrays."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import tensorflow as tf

from siglip_tf.evaluation.text_files import sound_files

_as_written = tf.autograph.experimental.do_not_convert  # there is no Python control flow to convert


@dataclass(frozen=True)
class ImageSet:
    """Images in a fixed order, with what is known about them.

    Attributes:
        name: the name of the set in tables and messages.
        examples: a data set of dicts with "image" (the bytes of an image file, not decoded) and "id" (a string).
        ids: the strings (images,) that `examples` contain.
        labels: int (images,), or int (images, k) padded with -1, or None.
        class_names: a name for each label, or None.
        captions: the captions of each image, or None.
        languages: captions by language code, if there are several languages.
        notes: what a reader of the results must know, for example that files are left out.
    """

    name: str
    examples: tf.data.Dataset
    ids: tuple[str, ...]
    labels: np.ndarray | None = None
    class_names: tuple[str, ...] | None = None
    captions: tuple[tuple[str, ...], ...] | None = None
    languages: dict[str, tuple[tuple[str, ...], ...]] | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def subset(self, indices: Sequence[int] | np.ndarray) -> "ImageSet":
        """Returns the set of the images at `indices`, which must be strictly increasing.

        Raises:
            ValueError: if the indices do not increase strictly, or are out of range.
        """
        indices = np.asarray(indices, np.int64)
        if indices.size == 0 or (np.diff(indices) <= 0).any() or indices[0] < 0 or indices[-1] >= len(self):
            raise ValueError(f"Expected rising indices in 0..{len(self) - 1}. Received: {indices[:10].tolist()} ...")
        kept = np.zeros(len(self), bool)
        kept[indices] = True
        chosen = tf.data.Dataset.from_tensor_slices(kept)
        pairs = tf.data.Dataset.zip(chosen, self.examples).filter(_as_written(lambda keep, _: keep))
        return self.chosen(indices, pairs.map(_as_written(lambda _, example: example)))

    def chosen(
        self, indices: Sequence[int] | np.ndarray, examples: tf.data.Dataset, notes: tuple[str, ...] = ()
    ) -> "ImageSet":
        """Returns the set of the images at `indices`, which `examples` hold. `notes` are added to the set's own."""

        def pick(values):
            return None if values is None else tuple(values[i] for i in indices)

        return replace(
            self,
            examples=examples,
            ids=pick(self.ids),
            labels=None if self.labels is None else self.labels[np.asarray(indices)],
            captions=pick(self.captions),
            languages=None if self.languages is None else {k: pick(v) for k, v in self.languages.items()},
            notes=self.notes + notes,
        )

    def limit(self, count: int | None) -> "ImageSet":
        """Returns `count` images, evenly spread because sets are often sorted by class. None returns all images."""
        if count is None or count >= len(self):
            return self
        return self.subset(np.linspace(0, len(self) - 1, count).round().astype(np.int64))

    def read(self, indices: Sequence[int]) -> list[bytes]:
        """Returns the bytes of a few images, in the order of `indices`."""
        rising = np.unique(np.asarray(indices, np.int64))
        if rising.size == 0:
            return []
        found = dict(zip(rising.tolist(), self.subset(rising).examples.as_numpy_iterator(), strict=True))
        return [found[int(i)]["image"] for i in indices]


def from_files(name: str, paths: Sequence[str], ids: Sequence[str] | None = None, **known) -> ImageSet:
    """Returns an `ImageSet` of image files at any paths that TensorFlow can read.

    Files that do not exist or cannot be read are left out, and a note counts them.

    Args:
        name: the name of the set.
        paths: the paths of the files.
        ids: an id for each file. The default is its path.
        known: further attributes for all of the files.

    Raises:
        ValueError: if there are no files, or none can be read.
    """
    if not paths:
        raise ValueError(f"{name} holds no image files.")
    ids = tuple(paths if ids is None else ids)
    sound, missing = sound_files(paths)
    if not sound:
        raise ValueError(f"{name}: none of its {len(paths)} image files can be read; {paths[0]} {missing[0]}.")
    files = tf.data.Dataset.from_tensor_slices({"path": [paths[i] for i in sound], "id": [ids[i] for i in sound]})
    examples = files.map(
        lambda file: {"image": tf.io.read_file(file["path"]), "id": file["id"]}, num_parallel_calls=tf.data.AUTOTUNE
    )
    if not missing:
        return ImageSet(name, examples, ids, **known)
    note = left_out_note(len(paths), {ids[i]: reason for i, reason in missing.items()})
    return ImageSet(name, examples, ids, **known).chosen(sound, examples, (note,))


def left_out_note(total: int, reasons: Mapping[str, str]) -> str:
    """Returns a note that counts the images that are left out, and names the first of them with the reason."""
    named = "; ".join(f"{key}: {reason}" for key, reason in list(reasons.items())[:3])
    more = f"; and {len(reasons) - 3} more" if len(reasons) > 3 else ""
    return f"{len(reasons)} of {total} images are left out ({named}{more})"


def from_examples(name: str, examples: tf.data.Dataset, class_names: Sequence[str] | None = None) -> ImageSet:
    """Returns an `ImageSet` of encoded examples: dicts with "image" and "id", optionally "captions" (k,) and "label".

    The data set must return the same examples in the same order each time. This function reads it once, without
    decoding images.

    Raises:
        ValueError: if there are no examples.
    """
    ids, labels, captions = [], [], []
    columns = examples.map(
        _as_written(lambda example: {k: v for k, v in example.items() if k in ("id", "label", "captions")})
    )
    for example in columns.as_numpy_iterator():
        ids.append(example["id"].decode(errors="replace"))
        labels.append(example.get("label"))
        captions.append(tuple(c.decode(errors="replace") for c in example.get("captions", ())))
    if not ids:
        raise ValueError(f"{name} holds no examples.")
    return ImageSet(
        name,
        examples.map(_as_written(lambda example: {"image": example["image"], "id": example["id"]})),
        tuple(ids),
        labels=None if labels[0] is None else pad_labels(labels),
        class_names=None if class_names is None else tuple(class_names),
        captions=tuple(captions) if any(captions) else None,
    )


def pad_labels(labels: Sequence) -> np.ndarray:
    """Converts numbers to int64 (n,), or lists of numbers to int64 (n, k) padded with -1, where k is at least 1."""
    if all(np.ndim(label) == 0 for label in labels):
        return np.asarray(labels, np.int64)
    padded = np.full((len(labels), max(1, *(len(label) for label in labels))), -1, np.int64)
    for row, label in zip(padded, labels, strict=True):
        row[: len(label)] = label
    return padded
