"""Where records come from: one interface (`base.Source`), one source a file, and one line that opens any of them."""

import importlib
from typing import Any

from siglip_tf.data.sources.base import Source, fingerprint_of

# Public name: the module of this package that defines it, imported on first use.
_MODULES = {
    "FolderSource": "folder",
    "ParquetSource": "parquet",
    "TFRecordSource": "tfrecord",
    "TarSource": "tar",
    "open_source": "opening",
    "open_tfds": "tfds",
}

__all__ = ["Source", "fingerprint_of", *sorted(_MODULES)]  # noqa: PLE0604 - names of `_MODULES`


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
