"""Class names as people say them."""

import re


def spoken(name: str) -> str:
    """A class name as a caption: `golden_retriever` is "golden retriever", as TensorFlow Datasets' names are read."""
    return re.sub(r"[_\s]+", " ", name).strip()
