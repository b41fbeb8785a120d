"""Class names as captions."""

import re


def spoken(name: str) -> str:
    """Returns a class name as a caption: `golden_retriever` (as in TensorFlow Datasets) is "golden retriever"."""
    return re.sub(r"[_\s]+", " ", name).strip()
