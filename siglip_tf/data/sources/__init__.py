"""Where records come from: one interface (`base.Source`), and one line of text that opens any source (`opening`).

`folders` holds the source of image folders and of `tables`, `shards` the sources of files with many records, and `tfds`
the source of TensorFlow Datasets.

The words of this folder:

- record: an image with its captions; what one index of a source returns, sound or broken.
- shard: a file that holds many records (tar, TFRecord, Parquet).
- index: where each record of a shard begins, in a file beside the shards or in memory.
- count: how many records a shard holds, according to a file beside it. It is checked when the shard is read.
- run: neighboring records that are read together, such as a remote shard or a Parquet row group.
- layout: which files of a folder hold the captions of its images.
"""

import importlib
from typing import Any

# Public name: the module of this package that defines it, imported on first use.
_MODULES = {
    "FolderSource": "folders.source",
    "ParquetSource": "shards.parquet",
    "Source": "base",
    "TFRecordSource": "shards.tfrecord",
    "TarSource": "shards.tar",
    "fingerprint_of": "base",
    "open_source": "opening",
    "open_tfds": "tfds",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(_MODULES)
