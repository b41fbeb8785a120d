"""The cache folder of this machine, for results that take long to compute but can be computed again."""

import os
import pathlib


def cache_folder(name: str) -> pathlib.Path:
    """Returns `$XDG_CACHE_HOME/siglip_tf/<name>`, by default in `~/.cache`. It may not exist yet."""
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(base) / "siglip_tf" / name
