"""Files of a folder: which are images, and which are hidden. Every reader of folders shares these rules."""

import os
from collections.abc import Iterator

import tensorflow as tf

from siglip_tf.data.sources.paths import is_remote

# Images in formats that this package decodes.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp")
# Images in other formats. They count as records that cannot be decoded, so that no image is ignored silently.
OTHER_IMAGE_SUFFIXES = (
    ".heic", ".heif", ".avif", ".jxl", ".jp2", ".tif", ".tiff", ".jfif", ".jpe", ".ico", ".ppm", ".pgm", ".svg",
    ".dng", ".cr2", ".nef", ".arw",
)  # fmt: skip
_HIDDEN = ("__MACOSX", "@eaDir", "Thumbs.db", "desktop.ini", "lost+found")


def is_hidden(name: str) -> bool:
    """Says whether a file or folder is not the user's data: `.ipynb_checkpoints`, `._a.jpg`, `__MACOSX`."""
    return name.startswith(".") or name in _HIDDEN


def is_image(name: str) -> bool:
    """Says whether a file's name is that of an image in a format that this package decodes."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def is_picture(name: str) -> bool:
    """Says whether a file's name is that of an image in any format."""
    return name.lower().endswith(IMAGE_SUFFIXES + OTHER_IMAGE_SUFFIXES)


def walk(folder: str) -> Iterator[tuple[str, list[str]]]:
    """Yields `folder` and the folders below it, each as its path and the sorted names of its files.

    Hidden files and folders are left out. Links to folders are followed, but no folder is entered twice.
    """
    folder = folder.rstrip("/") or "/"
    if is_remote(folder):
        for where, _, files in tf.io.gfile.walk(folder):
            inside = where[len(folder) :].strip("/")
            if not any(map(is_hidden, inside.split("/"))):
                yield where.rstrip("/"), sorted(name for name in files if name and not is_hidden(name))
        return
    yield from _walk_local(folder.removeprefix("file://"), set())


def _walk_local(folder: str, entered: set[str]) -> Iterator[tuple[str, list[str]]]:
    if (real := os.path.realpath(folder)) in entered:
        return
    entered.add(real)
    with os.scandir(folder) as listing:
        entries = sorted((entry for entry in listing if not is_hidden(entry.name)), key=lambda entry: entry.name)
    folders = [entry.path for entry in entries if entry.is_dir()]
    yield folder, [entry.name for entry in entries if not entry.is_dir()]
    for path in folders:
        yield from _walk_local(path, entered)
