"""What a cell's result depends on beside its settings: the source code of the parts that computed it."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Iterable
from pathlib import Path

from siglip_tf.source_digest import source_digest

_PLACES = {
    "siglip_tf": Path(importlib.util.find_spec("siglip_tf").origin).parent,  # found, not imported: that takes seconds
    "recipes": Path(__file__).parents[1],
}


def digests(parts: Iterable[str]) -> dict[str, str]:
    """A hash of the code of each part.

    Args:
        parts: files or folders, such as "siglip_tf/losses" or "recipes/studies/store.py".

    Returns:
        Part -> hash. Comments, docstrings, and layout do not change it.
    """
    return {part: _digest(part) for part in sorted(set(parts))}


@functools.cache
def _digest(part: str) -> str:
    top, _, rest = part.partition("/")
    path = _PLACES[top] / rest
    files = [path] if path.is_file() else sorted(path.rglob("*.py"))
    if not files:
        raise ValueError(f"Expected a file or folder with Python files. Received: {part!r}.")
    return source_digest(files)[:16]
