"""Copies checkpoints from other file systems (`gs://`) with TensorFlow."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def is_remote(path: str) -> bool:
    """Whether a path is on another file system."""
    return "://" in path


@contextmanager
def local_copy(path: str) -> Iterator[Path]:
    """Copies a remote file or folder. The copy exists as long as the context.

    Raises:
        FileNotFoundError: if the path does not exist.
    """
    import tensorflow as tf

    gfile = tf.io.gfile
    path = path.rstrip("/")
    if not gfile.exists(path):
        raise FileNotFoundError(f"No checkpoint at {path}.")
    with tempfile.TemporaryDirectory(prefix="siglip_tf_") as folder:
        local = Path(folder, path.rsplit("/", 1)[1])
        if gfile.isdir(path):
            for where, _, files in gfile.walk(path):
                inside = Path(local, where.rstrip("/").removeprefix(path).lstrip("/"))
                inside.mkdir(parents=True, exist_ok=True)
                for name in files:
                    gfile.copy(f"{where.rstrip('/')}/{name}", str(inside / name))
        else:
            gfile.copy(path, str(local))
        yield local
