"""Where records come from: one interface (`base.Source`), one source a file, and one line that opens any of them."""

import importlib
from typing import Any

# Public name: the module of this package that defines it, imported on first use.
_MODULES = {
    "FolderSource": "folder",
    "ParquetSource": "parquet",
    "Source": "base",
    "TFRecordSource": "tfrecord",
    "TarSource": "tar",
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
