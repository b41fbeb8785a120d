"""One line that names a source: a path whose kind is seen from its files, a data set of TFDS, or the embedded data."""

from typing import Any

import tensorflow as tf

from siglip_tf.data.sources.base import Source
from siglip_tf.data.sources.folder import FolderSource
from siglip_tf.data.sources.parquet import ParquetSource
from siglip_tf.data.sources.paths import join, open_binary
from siglip_tf.data.sources.tar import TarSource
from siglip_tf.data.sources.tfds import open_tfds
from siglip_tf.data.sources.tfrecord import TFRecordSource

USAGE = (
    "a folder of shards or images, a path or glob of .tar, .tfrecord or .parquet shards, a .jsonl, .csv, .tsv or "
    ".parquet table of image files, tfds:NAME, or scenes (the embedded data)"
)

_KINDS = {".tar": "tar", ".parquet": "parquet", ".jsonl": "folder", ".csv": "folder", ".tsv": "folder"}


def open_source(spec: str, *, split: str | None = None, **options: Any) -> Source:
    """The source that a line names.

    Args:
        spec: tar, TFRecord or Parquet shards (path, glob, brace range, folder), a folder of image files with or
            without a table, "tfds:NAME", or "scenes".
        split: of TFDS, folders and scenes ("train" of TFDS and scenes by default); shards are split by their paths.
        options: keyword arguments of the source, e.g. `index_dir`, `caption_keys`, `seed`.

    Raises:
        ValueError: nothing is there, or a split of shards; and what the source raises.
    """
    kind = _kind(spec)
    if kind == "tfds":
        return open_tfds(spec.removeprefix("tfds:"), split or "train", **options)
    if kind == "scenes":
        from siglip_tf.synthetic import SceneSource

        return SceneSource(split or "train", **options)
    if kind == "folder":
        return FolderSource(spec, split=split, **options)
    if split is not None:
        raise ValueError(f"Shards have no splits: name those of {split!r} by their paths. Received: {spec!r}")
    return {"tar": TarSource, "tfrecord": TFRecordSource, "parquet": ParquetSource}[kind](spec, **options)


def _kind(spec: str) -> str:
    if spec == "scenes" or spec.startswith("tfds:"):
        return spec.partition(":")[0]
    if tf.io.gfile.isdir(spec):
        return _kind_of_folder(spec)
    name = spec.rpartition("/")[2]
    kind = "tfrecord" if ".tfrecord" in name else _KINDS.get("." + name.rpartition(".")[2])
    if kind is None:
        raise ValueError(f"Expected {USAGE}. Received: {spec!r}")
    found = tf.io.gfile.glob(spec) if kind == "parquet" else []
    return "folder" if found and not _holds_images(found[0]) else kind


def _kind_of_folder(folder: str) -> str:
    for kind, pattern in (("tar", "*.tar"), ("tfrecord", "*.tfrecord*")):
        if tf.io.gfile.glob(join(folder, pattern)):
            return kind
    tables = tf.io.gfile.glob(join(folder, "*.parquet"))
    return "parquet" if tables and _holds_images(tables[0]) else "folder"


def _holds_images(path: str) -> bool:
    """Whether a Parquet file has a column of bytes, rather than names of image files."""
    import pyarrow
    import pyarrow.parquet

    with open_binary(path) as stream:
        schema = pyarrow.parquet.read_schema(stream)
    types = [field.type for field in schema]
    types += [inner.type for kind in types if pyarrow.types.is_struct(kind) for inner in kind]
    return any(pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind) for kind in types)
