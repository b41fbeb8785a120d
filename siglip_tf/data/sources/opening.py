"""Opens a source by one line of text: a path, a data set of TFDS, or a registered name.

shards/{00000..00331}.tar?caption=title,alt&language=lang
gs://bucket/cc12m?kind=tfrecord&suffix=.rec&index_dir=/tmp/index
photos?image=url_path&split=train
tfds:coco_captions?split=validation
synthetic?languages=en,de
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from siglip_tf.data.sources.base import Source
from siglip_tf.data.sources.folders.source import FolderSource
from siglip_tf.data.sources.options import NAMES, check_options, split_options
from siglip_tf.data.sources.paths import archive_of, expand_braces, find_shards, join, list_folder, shard_kind
from siglip_tf.data.sources.registry import registered
from siglip_tf.data.sources.shards.parquet import ParquetSource, holds_images
from siglip_tf.data.sources.shards.tar import TarSource
from siglip_tf.data.sources.shards.tfrecord import TFRecordSource
from siglip_tf.data.sources.tables.reading import table_kind
from siglip_tf.data.sources.tfds import open_tfds

USAGE = (
    "a folder of shards or images, a path or glob of .tar, .tfrecord or .parquet shards, a .jsonl, .json, .csv, .tsv "
    "or .parquet table of image files, tfds:NAME, or synthetic; options follow as SOURCE?caption=title&split=train "
    "(docs/data.md)"
)

_KINDS = ("folder", "classes", "tar", "tfrecord", "parquet")
# The options of each kind of source, and the keyword argument that each option sets.
_ARGUMENTS: dict[str, dict[str, str]] = {
    "folder": {
        "image": "image_column", "caption": "caption_column", "label": "label_column", "language": "language_column",
        "group": "group_column",
        "template": "template", "separator": "separator",
    },
    "tar": {
        "image": "image_members", "caption": "caption_keys", "label": "label_key", "language": "language_key",
        "group": "group_key", "index_dir": "index_dir", "suffix": "suffix",
    },
    "tfrecord": {
        "image": "image", "caption": "caption", "label": "label", "language": "language", "id": "id", "group": "group",
        "index_dir": "index_dir", "suffix": "suffix",
    },
    "parquet": {"suffix": "suffix"},
    "tfds": {
        "caption": "captions", "template": "template", "group": "group", "data_dir": "data_dir",
        "index_dir": "index_dir",
    },
    "registered": {
        "seed": "seed", "size": "size", "languages": "languages", "captions": "captions", "image_size": "image_size",
        "level": "level",
    },
}  # fmt: skip
_PARQUET_COLUMNS = {
    "image": "image", "caption": "captions", "label": "label", "language": "language", "id": "id", "group": "group",
}  # fmt: skip
_LISTS = ("caption_keys", "image_members", "languages")
_INTEGERS = ("seed", "size", "captions", "image_size")
_HAVE_SPLITS = ("folder", "tfds", "registered")


def open_source(spec: str, *, split: str | None = None, **options: Any) -> Source:
    """Opens the source that a line of text names.

    Args:
        spec: tar, TFRecord, or Parquet shards (path, glob, brace range, folder), a folder of image files with or
            without a table, "tfds:NAME", or "synthetic". Options may follow as `SOURCE?key=value&key=value`; see
            `options.NAMES`.
        split: the split of TFDS, folders, or synthetic data, like the option `split`. The default is "train" for TFDS
            and synthetic data. Shards have no splits; name their paths instead.
        options: keyword arguments of the source, e.g. `index_dir`, `caption_keys`, `seed`. They override the options
            in the line.

    Raises:
        ValueError: nothing exists there, this kind of source does not take an option, or a split of shards is
            requested; also whatever the source raises.
    """
    path, written = split_options(spec)
    if unknown := sorted(written.keys() - NAMES.keys()):
        raise ValueError(f"{spec!r} has an unknown option {unknown[0]!r}. Options: {', '.join(NAMES)}.")
    kind = written.pop("kind", None)
    if kind not in (None, *_KINDS):
        raise ValueError(f"kind must be one of {', '.join(_KINDS)}. Received: {kind!r} in {spec!r}")
    kind = kind or _kind(path, written.get("suffix"))
    in_line = written.pop("split", None)
    if None not in (split, in_line) and split != in_line:
        raise ValueError(f"The split is {split!r} and, in {spec!r}, {in_line!r}. Name one.")
    split = split or in_line
    return _open(path, kind, split, written, options)


def shards_of(spec: str) -> tuple[str, list[str], str | None]:
    """Returns the kind, the paths, and the `index_dir` of the tar or TFRecord shards that a line of text names.

    Raises:
        ValueError: the line names no such shards.
    """
    path, written = split_options(spec)
    kind = written.get("kind") or _kind(path, written.get("suffix"))
    if kind not in ("tar", "tfrecord"):
        raise ValueError(f"Expected tar or TFRecord shards: nothing else needs counts. Received: {spec!r}")
    return kind, find_shards(path, written.get("suffix") or f".{kind}"), written.get("index_dir")


def _open(path: str, kind: str, split: str | None, written: dict[str, str], options: dict[str, Any]) -> Source:
    family = "folder" if kind == "classes" else kind
    if family == "parquet":
        check_options(written, [*_PARQUET_COLUMNS, *_ARGUMENTS[family], "kind"], f"Parquet source {path!r}")
        columns = {_PARQUET_COLUMNS[key]: written.pop(key) for key in [*written] if key in _PARQUET_COLUMNS}
        options = {**({"columns": columns} if columns else {}), **options}
    arguments = _ARGUMENTS[family]
    extra = ["kind", "split"] if family in _HAVE_SPLITS else ["kind"]
    check_options(written, [*arguments, *extra], f"{path!r}, read as {kind},")
    options = {**{arguments[key]: _value(arguments[key], value) for key, value in written.items()}, **options}
    if family not in _HAVE_SPLITS and split is not None:
        raise ValueError(f"Shards have no splits: name those of {split!r} by their paths. Received: {path!r}")
    if family == "registered":
        return registered(path)(split=split, **options)
    if family == "tfds":
        return open_tfds(path.removeprefix("tfds:"), split or "train", **options)
    if family == "folder":
        if kind == "classes":
            options["classes"] = True
        return FolderSource(path, split=split, **options)
    sources: dict[str, Callable[..., Source]] = {"tar": TarSource, "tfrecord": TFRecordSource, "parquet": ParquetSource}
    return sources[family](path, **options)


def _value(argument: str, value: str) -> Any:
    if argument in _LISTS:
        return tuple(value.split(","))
    if argument in _INTEGERS:
        if not value.isdecimal():
            raise ValueError(f"{argument} must be a whole number. Received: {value!r}")
        return int(value)
    return value


def _kind(spec: str, suffix: str | None) -> str:
    if registered(spec):
        return "registered"
    if spec.startswith("tfds:"):
        return "tfds"
    if tf.io.gfile.isdir(spec):
        return _kind_of_folder(spec, suffix)
    path = expand_braces(spec)[0]
    found = tf.io.gfile.glob(path) if {*path} & {*"*?["} else [path]
    name = (sorted(found) or [path])[0].rpartition("/")[2]
    kind = shard_kind(name) or ("folder" if table_kind(name) or name.lower().endswith((".txt", ".token")) else None)
    if kind is None:
        if archive_of(name):
            hint = " The records of a compressed file cannot be addressed: decompress it first."
        else:
            hint = " It exists: name its kind by ?kind=tar, tfrecord or parquet." if tf.io.gfile.exists(spec) else ""
        raise ValueError(f"Expected {USAGE}. Received: {spec!r}.{hint}")
    # If a Parquet file does not exist, the source raises the error.
    there = [path for path in found if kind == "parquet" and tf.io.gfile.exists(path)]
    return "folder" if there and not holds_images(there[0]) else kind


def _kind_of_folder(folder: str, suffix: str | None) -> str:
    names = list_folder(folder)
    if suffix is not None:
        kind = shard_kind("x" + suffix)
        if kind is None:
            raise ValueError(
                f"The kind of shards in {suffix!r} files is unknown: name it, e.g. {folder}?kind=tar&suffix={suffix}."
            )
        return kind
    kinds = sorted({kind for name in names if (kind := shard_kind(name))} - {"parquet"})
    tables = sorted(name for name in names if shard_kind(name) == "parquet")
    # img2dataset writes a Parquet file of metadata, without images, beside each shard.
    if tables and holds_images(join(folder, tables[0])):
        kinds.append("parquet")
    if len(kinds) > 1:
        raise ValueError(
            f"{folder} holds shards of several kinds ({', '.join(kinds)}): choose by {folder}?kind={kinds[0]}, or move "
            "one kind elsewhere."
        )
    return kinds[0] if kinds else "folder"
