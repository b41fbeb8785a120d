"""Data for training and evaluation: preprocessing, sources, pipelines, corruption, stored embeddings.

Names are imported on first use, so that `import siglip_tf` stays fast.
"""

import importlib
from typing import Any

# Public name: the module of this package that defines it.
_MODULES = {
    "Augmentation": "images.augmentation",
    "Corruption": "corruption",
    "EmbeddingData": "embeddings.pipeline",
    "EmbeddingWriter": "embeddings.writer",
    "ImagePreprocessing": "preprocessing",
    "NaFlexPreprocessing": "images.naflex",
    "Preprocessing": "preprocessing",
    "StoredEmbeddings": "embeddings.stored",
    "Tokenizer": "text.tokenizer",
    "canonicalize": "text.tokenizer",
    "tower_fingerprint": "embeddings.stored",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(_MODULES)
