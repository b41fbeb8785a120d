"""Captions from a text file of the same name beside each image."""

import concurrent.futures
import json
import posixpath
from typing import Any

import tensorflow as tf

from siglip_tf.data.sources.folders.tree import AS_CLASSES, SPLITS, Tree
from siglip_tf.data.sources.paths import is_remote, join
from siglip_tf.data.sources.tables.columns import CAPTIONS
from siglip_tf.data.sources.tables.reading import read_text, refuse_hopeless
from siglip_tf.data.sources.tables.rows import BrokenRow, Layout, Row, shown

_THREADS = 16


def texts_beside_images(tree: Tree, sidecars: dict[str, str]) -> Layout:
    """Reads each image's captions from the file of the same name beside it, if there is one."""

    def row(picture: str) -> Row | BrokenRow:
        text = sidecars.get(picture)
        split = SPLITS.get(picture.partition("/")[0].lower()) if "/" in picture else None
        path = join(tree.root, text or picture)
        try:
            captions = [] if text is None else _sidecar_captions(path)
        except (ValueError, OSError, tf.errors.OpError) as error:
            return BrokenRow(path, 0, shown(error), split=split)
        return Row({"image": picture, "captions": captions, "split": split}, path, 0)

    pictures = [posixpath.join(where, name) for where, names in tree.pictures.items() for name in names]
    if is_remote(tree.root):
        with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
            rows = list(pool.map(row, pictures))
    else:
        rows = list(map(row, pictures))
    refuse_hopeless(rows)
    if not any(row["captions"] for row in rows if isinstance(row, Row)):
        raise ValueError(
            f"{tree.root}: the files beside the images ({next(iter(sidecars.values()))}, ...) hold no captions. "
            + AS_CLASSES.format(folder=tree.root)
        )
    return Layout(tree.root, tree.root, rows, f"captions from {len(sidecars)} texts beside {len(rows)} images")


def _sidecar_captions(path: str) -> list[Any]:
    if not path.lower().endswith(".json"):
        with tf.io.gfile.GFile(path, "rb") as file:
            data = file.read()
        # Bytes that are not UTF-8 are kept, and the record is counted as broken when it is read.
        text = data.removeprefix(b"\xef\xbb\xbf").decode(errors="surrogateescape").strip()
        return [text] if text else []
    try:
        content = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {shown(error)}") from error
    value: Any = next((content[key] for key in CAPTIONS if content.get(key)), []) if isinstance(content, dict) else []
    return value if isinstance(value, list) else [value]
