"""The cache folder of this machine, for results that take long to compute and can be computed again."""

import os
import pathlib


def cache_folder(name: str) -> pathlib.Path:
    """`$XDG_CACHE_HOME/siglip_tf/<name>`, by default below `~/.cache`; it need not exist yet."""
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(base) / "siglip_tf" / name
