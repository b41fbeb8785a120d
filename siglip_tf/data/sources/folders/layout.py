"""Finds where a folder of image files has its captions, and reads them as rows.

These are the layouts:

    table             captions.jsonl (or .json, .csv, .tsv, .parquet, .txt) beside the images or above them
    tables            train/metadata.jsonl, test/metadata.jsonl, as in Hugging Face's imagefolder
    texts             a .txt (or .caption, .json) beside each image: img2dataset's `files` output, kohya's scripts
    classes           cat/*.jpg, dog/*.jpg; also below train/, validation/, and test/

Any other folder is refused with an error that names the files that were not understood. The names of folders do not
become captions if another file may hold the captions.

Source: https://huggingface.co/docs/datasets/image_dataset; https://github.com/rom1504/img2dataset
"""

import tensorflow as tf

from siglip_tf.data.sources.folders.classes import class_folders
from siglip_tf.data.sources.folders.table import TEXT_TABLES, is_text_table, one_table, tables_of_folders
from siglip_tf.data.sources.folders.texts import texts_beside_images
from siglip_tf.data.sources.folders.tree import Tree, split_of, table_names
from siglip_tf.data.sources.listing import walk
from siglip_tf.data.sources.paths import join
from siglip_tf.data.sources.tables.columns import IMAGES
from siglip_tf.data.sources.tables.reading import SUFFIXES, table_kind
from siglip_tf.data.sources.tables.rows import Layout


def read_layout(path: str, *, classes: bool = False, separator: str | None = None, image: str | None = None) -> Layout:
    """Reads the layout of a folder or of a table.

    Args:
        path: the folder or the table.
        classes: read the subfolders as classes, whatever other files there are.
        separator: the separator of a CSV or TSV table, if it is not a comma or a tab.
        image: the column that names the images. None searches common names.

    Raises:
        ValueError: nothing exists at the path, or the layout is not understood.
    """
    images = IMAGES if image is None else (image,)
    if not tf.io.gfile.isdir(path):
        if not (table_kind(path) or path.lower().endswith(TEXT_TABLES)) or not tf.io.gfile.exists(path):
            raise ValueError(f"Expected a folder of images or a table ({', '.join(SUFFIXES)}). Received: {path!r}")
        return one_table(path, separator, images)
    folders = walk(path)
    root = next(folders)
    if not classes:
        tables = [name for name in table_names(root[1]) if not _is_of_numbered_folder(path, name)]
        tables = tables or [name for name in root[1] if is_text_table(join(path, name), root[1])]
        if len(tables) > 1 and not all(split_of(name) for name in tables):
            raise ValueError(f"{path} holds several tables: name one of {[join(path, name) for name in tables]}.")
        if len(tables) == 1:
            return one_table(join(path, tables[0]), separator, images)
        if tables:
            return tables_of_folders(Tree(path, [root, *folders]), tables, separator, images)
    tree = Tree(path, [root, *folders])
    if not classes:
        if tables := tree.tables():
            return tables_of_folders(tree, tables, separator, images)
        if sidecars := tree.sidecars():
            return texts_beside_images(tree, sidecars)
        tree.refuse_unread()
    return class_folders(tree, classes)


def _is_of_numbered_folder(path: str, name: str) -> bool:
    """Says whether a table is img2dataset's metadata for the folder beside it: `00000.parquet` for `00000/`."""
    stem = name.partition(".")[0]
    return stem.isdecimal() and tf.io.gfile.isdir(join(path, stem))
