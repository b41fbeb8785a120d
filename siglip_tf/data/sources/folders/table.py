"""Rows of a table, or of the tables of a folder, with the paths of their images."""

import dataclasses
import posixpath
from collections.abc import Iterable, Sequence
from typing import Any

import tensorflow as tf

from siglip_tf.data.sources.folders.tree import AS_CLASSES, SPLITS, Tree, is_harmless, split_of
from siglip_tf.data.sources.listing import is_picture
from siglip_tf.data.sources.paths import join
from siglip_tf.data.sources.shards.parquet import holds_images
from siglip_tf.data.sources.tables.columns import CAPTIONS, IMAGES
from siglip_tf.data.sources.tables.reading import (
    read_table,
    read_text,
    refuse_hopeless,
    refuse_other_encoding,
    table_kind,
)
from siglip_tf.data.sources.tables.rows import BrokenRow, Layout, Row

TEXT_TABLES = (".txt", ".token")


def is_text_table(path: str, beside: Sequence[str]) -> bool:
    """Says whether a `.txt` file is a table: its first line names columns or begins with an image's name."""
    name = path.rpartition("/")[2]
    stem = posixpath.splitext(name)[0]
    if not name.lower().endswith(TEXT_TABLES) or is_harmless(name):
        return False
    if any(is_picture(other) and posixpath.splitext(other)[0] == stem for other in beside):
        return False
    head = read_text(path, errors="surrogateescape").partition("\n")[0]
    return _has_header(head) or _token_row(head) is not None


def _has_header(line: str) -> bool:
    columns = {name.strip().strip('"') for name in line.split("\t" if "\t" in line else ",")}
    return bool(columns & {*IMAGES}) and bool(columns & {*CAPTIONS})


def _token_row(line: str) -> dict[str, str] | None:
    """Parses a line of Flickr's `results.token`: an image's name, with or without `#0`, a tab, and its caption."""
    name, tab, caption = line.rstrip("\r\n").partition("\t")
    name, _, number = name.partition("#")
    fits = tab and is_picture(name) and (number.isdecimal() or not number)
    return {"image": name, "caption": caption} if fits else None


def one_table(path: str, separator: str | None, images: Sequence[str]) -> Layout:
    """Reads the rows of a single table."""
    rows = _table_rows(path, separator)
    if not rows:
        raise ValueError(f"{path} holds no rows.")
    return Layout(path, _image_root(path, rows, images), rows, f"captions from {path}")


def tables_of_folders(tree: Tree, tables: Sequence[str], separator: str | None, images: Sequence[str]) -> Layout:
    """Reads the rows of one table per subfolder. If a subfolder has the name of a split, it is the rows' split."""
    rows: list[Row | BrokenRow] = []
    for table in tables:
        path = join(tree.root, table)
        found = _table_rows(path, separator)
        columns = next((row.keys() for row in found if isinstance(row, Row)), None)
        if columns is not None and not {*images} & columns:
            raise ValueError(
                f"{path} names no images: expected one of the columns {', '.join(images)}. Its columns: "
                f"{', '.join(map(str, columns))}. " + AS_CLASSES.format(folder=tree.root)
            )
        folder = _image_root(path, found, images) if found else ""
        split = split_of(table)
        for row in found:
            if isinstance(row, BrokenRow):
                rows.append(dataclasses.replace(row, split=split))
                continue
            own = row.with_cells(row)
            if split is not None and not own.get("split"):
                own["split"] = split
            for key in images:
                if key in own:
                    own[key] = _below(tree.root, folder, own[key])
            rows.append(own)
    covered = {table.rpartition("/")[0] for table in tables}
    for where, pictures in tree.pictures.items():
        top = where.partition("/")[0]
        lone = top.lower() in SPLITS and not any(f"{where}/".startswith(f"{folder}/") for folder in covered)
        if lone and any(folder.partition("/")[0].lower() in SPLITS for folder in covered):
            raise ValueError(
                f"{join(tree.root, where)} holds {len(pictures)} images and no table, while "
                f"{join(tree.root, tables[0])} describes its own folder. Give each split a table, or name one table."
            )
    if not rows:
        raise ValueError(f"{tree.root} holds no rows: its tables are empty.")
    return Layout(tree.root, tree.root, rows, f"captions from {', '.join(tables[:4])}{', ...' * (len(tables) > 4)}")


def _table_rows(path: str, separator: str | None) -> list[Row | BrokenRow]:
    if table_kind(path) == "parquet" and tf.io.gfile.stat(path).length and holds_images(path):
        folder = path.rpartition("/")[0]
        raise ValueError(f"{path} holds images, or is damaged: name the shards as {join(folder, '*.parquet')!r}.")
    rows = list(_rows_of(path, separator))
    refuse_hopeless(rows)
    refuse_other_encoding(rows)
    return rows


def _rows_of(path: str, separator: str | None) -> Iterable[Row | BrokenRow]:
    if not path.lower().endswith(TEXT_TABLES):
        return read_table(path, separator)
    text = read_text(path, errors="surrogateescape")
    if _has_header(text.partition("\n")[0]) or separator is not None:
        return read_table(path, separator)
    rows: list[Row | BrokenRow] = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            cells, said = _token_row(line), f"expected IMAGE, a tab, CAPTION. Received: {line[:80]!r}"
            rows.append(BrokenRow(path, number, said) if cells is None else Row(cells, path, number))
    return rows


def _image_root(table: str, rows: Iterable[Row | BrokenRow], images: Sequence[str]) -> str:
    """Returns the folder of a table's images: the table's own, unless the first image is in a folder nearby."""
    folder, slash, name = table.rpartition("/")
    folder = folder or ("/" if slash else ".")
    named = (row.get(key) for row in rows if isinstance(row, Row) for key in images)
    first = next((name for name in named if name and isinstance(name, str)), "")
    if not first or "://" in first or first.startswith("/"):
        return folder
    parent = posixpath.dirname(folder) or "."
    # COCO's annotations/captions_train2017.json describes the images in train2017/.
    part = posixpath.splitext(name)[0].rpartition("_")[2]
    nearby = (folder, join(folder, "images"), parent, join(parent, part), join(parent, "images"))
    return next((where for where in nearby if tf.io.gfile.exists(join(where, first))), folder)


def _below(root: str, folder: str, image: Any) -> Any:
    """Returns the path, below the root, of an image in a subfolder's table."""
    if not isinstance(image, str) or not image or "://" in image or image.startswith("/"):
        return image
    path = posixpath.normpath(join(folder, image))
    start = posixpath.normpath(root) + "/"
    return path[len(start) :] if path.startswith(start) else join(folder, image)
