"""Class names from the names of folders, and the errors for folders that hold nothing readable."""

import posixpath
from collections.abc import Sequence

from siglip_tf.data.sources.folders.tree import AS_CLASSES, SPLITS, Tree, is_harmless
from siglip_tf.data.sources.listing import OTHER_IMAGE_SUFFIXES
from siglip_tf.data.sources.paths import archive_of, join, shard_kind
from siglip_tf.data.sources.tables.reading import SUFFIXES
from siglip_tf.data.sources.tables.rows import Layout, Row


def class_folders(tree: Tree, chosen: bool) -> Layout:
    """Reads one folder per class, below the folder itself or below folders named train, validation, and test."""
    tops = tree.tops()
    if not tops or "" in tree.pictures:
        raise ValueError(_nothing_to_read(tree))
    as_splits = not chosen and all(top.lower() in SPLITS for top in tops)
    if chosen and all(top.lower() in SPLITS for top in tops):
        as_splits = all(where.count("/") >= 1 for wheres in tops.values() for where in wheres)
    rows = []
    for top, wheres in tops.items():
        if as_splits and top in wheres:
            raise ValueError(
                f"{join(tree.root, top)} holds {len(tree.pictures[top])} images and neither captions nor class "
                f"folders. Expected {top}/metadata.jsonl, a .txt beside each image, or {top}/CLASS/IMAGE."
            )
        for where in wheres:
            parts = where.split("/")
            label, split = (parts[1], SPLITS[top.lower()]) if as_splits else (top, None)
            rows += [
                Row(
                    {"image": posixpath.join(where, name), "label": label, "split": split},
                    posixpath.join(tree.root, where, name),
                    0,
                )
                for name in tree.pictures[where]
            ]
    names = {row["label"] for row in rows}
    inside = sorted({where for wheres in tops.values() for where in wheres})
    if not chosen:
        _refuse_one_class(tree, names, inside)
        if not as_splits and not any(top in wheres for top, wheres in tops.items()) and len(inside) > len(tops):
            raise ValueError(
                f"{tree.root} holds nested class folders ({', '.join(inside[:4])}, ...). Name the folder whose "
                "subfolders are the classes. " + AS_CLASSES.format(folder=tree.root)
            )
    empty = [
        top
        for top in {where.partition("/")[0] for where in tree.files if where} - tops.keys()
        if _files_below(tree, top)
    ]
    if empty and not chosen:
        raise ValueError(
            f"{join(tree.root, sorted(empty)[0])} holds {_files_below(tree, sorted(empty)[0])[:4]} and no images, so "
            "it cannot be a class. Move it away. " + AS_CLASSES.format(folder=tree.root)
        )
    other = sum(name.lower().endswith(OTHER_IMAGE_SUFFIXES) for found in tree.pictures.values() for name in found)
    note = f"{len(names)} classes from the names of folders"
    if other:
        note += f"; {other} images are in formats that are not decoded (HEIC, TIFF and the like) and count as broken"
    return Layout(tree.root, tree.root, rows, note, classes=True)


def _files_below(tree: Tree, top: str) -> list[str]:
    return [
        name
        for where, names in tree.files.items()
        if where.partition("/")[0] == top
        for name in names
        if not is_harmless(name)
    ]


def _refuse_one_class(tree: Tree, names: set[str], inside: Sequence[str]) -> None:
    if len(names) > 1:
        return
    (name,) = names
    below = sorted({where.partition("/")[2].partition("/")[0] for where in inside} - {""})
    hint = f"The classes may be {', '.join(below[:4])}: name {join(tree.root, name)}. " if len(below) > 1 else ""
    raise ValueError(
        f"{tree.root} has the one folder {name!r} of images and no captions, so that each of {tree.count} images would "
        f"get the caption {name!r}. {hint}Expected a table ({', '.join(SUFFIXES)}), a .txt beside each image, or a "
        "folder per class. " + AS_CLASSES.format(folder=tree.root)
    )


def _nothing_to_read(tree: Tree) -> str:
    """Returns the message that says why a folder holds no rows."""
    names = [posixpath.join(where, name) for where, found in tree.files.items() for name in found]
    archives = [name for name in names if archive_of(name)]
    shards = [name for name in names if shard_kind(name)]
    if tree.pictures:
        count = len(tree.pictures.get("", ()))
        return (
            f"{tree.root} holds {count} images without captions: expected a table ({', '.join(SUFFIXES)}), a .txt "
            "beside each image, or a folder per class."
        )
    if archives:
        return (
            f"{tree.root} holds no rows, but {len(archives)} compressed files ({archives[0]}): decompress them first; "
            "compressed records cannot be addressed."
        )
    if shards:
        pattern = join(
            tree.root, "/".join("*" for _ in shards[0].split("/")[:-1]) + "/*" + posixpath.splitext(shards[0])[1]
        )
        return f"{tree.root} holds no rows itself, but shards in subfolders ({shards[0]}): name them as {pattern!r}."
    if arrow := next((name for name in names if name.lower().endswith((".arrow", ".feather"))), None):
        return (
            f"{tree.root} holds no rows, but Arrow files ({arrow}), as `save_to_disk` of Hugging Face's datasets "
            "writes them. Arrow files cannot be read: write Parquet files by `dataset.to_parquet(PATH)`."
        )
    there = ", ".join(names[:6]) or "nothing"
    return f"{tree.root} holds no rows: expected images with captions, or shards. It holds {there}."
