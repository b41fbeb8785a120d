"""Data for training and evaluation: preprocessing, sources, pipelines, corruption, stored embeddings.

Names are imported on first use, so that `import siglip_tf` stays fast.

The folders follow a picture from its file to the device. Each of the first three defines its terms in its docstring:

- `sources`: where records come from (record, shard, index, run, layout).
- `order`: which record comes when (pair, stream, slot, window, piece, component, position, frontier).
- `service`: how batches reach the runtimes of TPU hosts (share, chunk, session).
- `images`, `text`, `embeddings`: preparing pictures and captions, and stored embeddings of a frozen tower.
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
