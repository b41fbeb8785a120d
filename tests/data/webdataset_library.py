"""The webdataset library. It imports torch where that is installed, which takes seconds and serves no test."""

import sys

without_torch = sys.modules.setdefault("torch", None) is None
try:
    import webdataset
    import webdataset.shardlists
finally:
    if without_torch:
        del sys.modules["torch"]

__all__ = ["webdataset"]
