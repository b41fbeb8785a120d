"""Version folders on disk or in an object store: which are there, and whether they are whole."""

import json
import os

import tensorflow as tf

from siglip_tf.storage import read_file

# Written by the export: every file of a version and its size, so that a copy that is not finished yet is seen as such.
FILES_FILE = "assets.extra/siglip_tf_files.json"
_GRAPH = "saved_model.pb"


def version_numbers(base: str) -> list[int]:
    """Numbers of the folders below a base path that hold a SavedModel's graph, ascending."""
    gfile = tf.io.gfile
    if not gfile.isdir(base):
        return []
    names = (name.rstrip("/") for name in gfile.listdir(base))
    numbers = [int(name) for name in names if name.isascii() and name.isdigit() and str(int(name)) == name]
    return sorted(number for number in numbers if gfile.exists(f"{base}/{number}/{_GRAPH}"))


def file_sizes(folder: str) -> dict[str, int]:
    """Sizes of a folder's files by their path in it."""
    gfile = tf.io.gfile
    sizes = {}
    for where, _, names in gfile.walk(folder):
        inside = os.path.relpath(where.rstrip("/"), folder) if where.rstrip("/") != folder else ""
        for name in names:
            path = f"{inside}/{name}" if inside else name
            sizes[path] = gfile.stat(f"{folder}/{path}").length
    return sizes


def write_file_list(folder: str) -> None:
    """Writes the list of a local folder's files that `missing` reads."""
    sizes = file_sizes(folder)
    os.makedirs(os.path.dirname(f"{folder}/{FILES_FILE}"), exist_ok=True)
    with open(f"{folder}/{FILES_FILE}", "w", encoding="utf-8") as file:
        json.dump({"files": sizes}, file, indent=1)


def missing(folder: str, sizes: dict[str, int]) -> str | None:
    """The first file that is not there as the export listed it; None if all are, or if there is no list.

    Args:
        folder: the version's folder.
        sizes: what `file_sizes` says of it.

    Raises:
        ValueError: the list cannot be read.
    """
    if FILES_FILE not in sizes:
        return None
    try:
        listed = json.loads(read_file(f"{folder}/{FILES_FILE}"))["files"]
        return next((name for name, size in listed.items() if sizes.get(name) != size), None)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder}/{FILES_FILE} cannot be read: {error}") from error
