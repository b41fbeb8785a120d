"""What a folder of image files says of its captions: the layouts that people and their tools write, as rows.

    table             captions.jsonl (or .json, .csv, .tsv, .parquet, .txt) beside the images or above them
    table a folder    train/metadata.jsonl, test/metadata.jsonl: Hugging Face's imagefolder
    texts             a .txt (or .caption, .json) beside each image: img2dataset's `files` output, kohya's scripts
    classes           cat/*.jpg, dog/*.jpg; also below train/, validation/ and test/

What fits none of these is refused, and the files that were not understood are named: captions are never made up from
the names of folders while a file that may hold them lies beside.

Source: https://huggingface.co/docs/datasets/image_dataset; https://github.com/rom1504/img2dataset
"""

import concurrent.futures
import dataclasses
import json
import posixpath
from collections.abc import Iterable, Sequence
from typing import Any

import tensorflow as tf

from siglip_tf.data.sources.columns import CAPTIONS, IMAGES
from siglip_tf.data.sources.listing import OTHER_IMAGE_SUFFIXES, is_picture, walk
from siglip_tf.data.sources.parquet import holds_images
from siglip_tf.data.sources.paths import archive_of, is_remote, join, shard_kind
from siglip_tf.data.sources.rows import BrokenRow, Row, shown
from siglip_tf.data.sources.tables import (
    SUFFIXES,
    read_table,
    read_text,
    refuse_hopeless,
    refuse_other_encoding,
    table_kind,
)

# Names that Hugging Face, torchvision and others give to the parts of a data set.
_SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
SPLITS = {name: split for split, names in _SPLIT_NAMES.items() for name in names}

# Files that lie beside class folders and hold no captions, by the first word of their names.
_HARMLESS = {
    "readme", "license", "licence", "notice", "copying", "changelog", "citation", "attribution", "credits", "authors",
    "requirements", "classes", "labels", "class_names", "names", "synsets", "words", "checksums", "md5sums",
    "sha256sums", "dataset_info", "dataset_infos", "dataset_dict", "state", "config", "class_to_idx", "classes_to_idx",
    "idx_to_class", "label_map",
}  # fmt: skip
# What may hold captions or images and is not read from a folder of image files.
_NOT_READ = (
    ".txt", ".text", ".token", ".xml", ".xls", ".xlsx", ".ods", ".yaml", ".yml", ".pkl", ".pickle", ".npy", ".npz",
    ".h5", ".hdf5", ".arrow", ".feather", ".db", ".sqlite", ".sqlite3", ".mdb", ".lmdb", ".mat",
)  # fmt: skip
_TEXT_TABLES = (".txt", ".token")
_SIDECARS = (".txt", ".caption", ".json")
_AS_CLASSES = "To read the subfolders as classes all the same, write {folder}?kind=classes."
_THREADS = 16


@dataclasses.dataclass(frozen=True)
class Layout:
    """The rows of a folder or table.

    Attributes:
        where: the folder or table, for messages.
        root: the folder that the rows' images are relative to.
        rows: a dictionary for each pair or image, by column; what of a table cannot be understood stands among them.
        note: one line that says what was read.
        classes: whether the "label" of each row is the name of its folder.
    """

    where: str
    root: str
    rows: Sequence[Row | BrokenRow]
    note: str
    classes: bool = False


def read_layout(path: str, *, classes: bool = False, separator: str | None = None, image: str | None = None) -> Layout:
    """The layout of a folder, or of the table at a path.

    Args:
        path: the folder, or a table.
        classes: read the subfolders as classes, whatever else lies there.
        separator: of a CSV or TSV table, if it is none of theirs.
        image: the column that names the images; one of the common names where None.

    Raises:
        ValueError: nothing there, or nothing that is understood.
    """
    images = IMAGES if image is None else (image,)
    if not tf.io.gfile.isdir(path):
        if not (table_kind(path) or path.lower().endswith(_TEXT_TABLES)) or not tf.io.gfile.exists(path):
            raise ValueError(f"Expected a folder of images or a table ({', '.join(SUFFIXES)}). Received: {path!r}")
        return _one_table(path, separator, images)
    folders = walk(path)
    root = next(folders)
    if not classes:
        tables = [name for name in _tables(root[1]) if not _is_of_numbered_folder(path, name)]
        tables = tables or [name for name in root[1] if _is_text_table(join(path, name), root[1])]
        if len(tables) > 1 and not all(_split_of(name) for name in tables):
            raise ValueError(f"{path} holds several tables: name one of {[join(path, name) for name in tables]}.")
        if len(tables) == 1:
            return _one_table(join(path, tables[0]), separator, images)
        if tables:
            return _tables_of_folders(_Tree(path, [root, *folders]), tables, separator, images)
    tree = _Tree(path, [root, *folders])
    if not classes:
        if tables := tree.tables():
            return _tables_of_folders(tree, tables, separator, images)
        if sidecars := tree.sidecars():
            return _texts(tree, sidecars)
        tree.refuse_unread()
    return _classes(tree, classes)


def _is_of_numbered_folder(path: str, name: str) -> bool:
    """Whether a table holds img2dataset's metadata of the folder beside it: `00000.parquet` of `00000/`."""
    stem = name.partition(".")[0]
    return stem.isdecimal() and tf.io.gfile.isdir(join(path, stem))


def _split_of(path: str) -> str | None:
    """The split that a path below the folder belongs to, by its first folder or, of a table there, by its own name."""
    return SPLITS.get(path.partition("/")[0].partition(".")[0].lower())


class _Tree:
    """A folder's files, hidden ones left out: each subfolder by its path below the folder, "" first."""

    def __init__(self, root: str, folders: Iterable[tuple[str, list[str]]]):
        self.root = root
        listed = list(folders)
        self.files = {where[len(listed[0][0]) :].strip("/"): names for where, names in listed}
        self.pictures = {
            where: found for where, names in self.files.items() if (found := [n for n in names if is_picture(n)])
        }

    @property
    def count(self) -> int:
        """How many pictures there are."""
        return sum(map(len, self.pictures.values()))

    def tops(self) -> dict[str, list[str]]:
        """For each first-level folder with pictures below it, the folders of those, by their paths."""
        tops: dict[str, list[str]] = {}
        for where in self.pictures:
            if where:
                tops.setdefault(where.partition("/")[0], []).append(where)
        return tops

    def tables(self) -> list[str]:
        """Paths of the tables in subfolders, below the folder.

        Raises:
            ValueError: a subfolder holds several.
        """
        found = []
        for where, names in self.files.items():
            tables = [name for name in _tables(names) if where]
            if len(tables) > 1:
                raise ValueError(
                    f"{join(self.root, where)} holds several tables: name one of "
                    f"{[join(join(self.root, where), name) for name in tables[:8]]}."
                )
            found += [posixpath.join(where, name) for name in tables]
        return found

    def sidecars(self) -> dict[str, str]:
        """The file of the same stem beside each picture that has one; paths below the folder.

        Raises:
            ValueError: only some have one.
        """
        found = {}
        for where, pictures in self.pictures.items():
            beside = {name.lower(): name for name in self.files[where] if name.lower().endswith(_SIDECARS)}
            for picture in pictures:
                stem = posixpath.splitext(picture)[0].lower()
                if text := next((beside[stem + end] for end in _SIDECARS if stem + end in beside), None):
                    found[posixpath.join(where, picture)] = posixpath.join(where, text)
        if found and len(found) < self.count / 2:
            picture, text = next(iter(found.items()))
            raise ValueError(
                f"{self.root}: {len(found)} of {self.count} images have a text of the same name beside them "
                f"({picture}, {text}), the others do not. Give each image its text, or move the texts away. "
                + _AS_CLASSES.format(folder=self.root)
            )
        return found

    def refuse_unread(self) -> None:
        """Raises ValueError for a file in the folder itself that may hold captions and is not read."""
        unread = [name for name in self.files[""] if name.lower().endswith(_NOT_READ) and not _is_harmless(name)]
        if unread and self.count:
            raise ValueError(
                f"{self.root} holds files that may say the images' captions and are not understood: "
                f"{', '.join(unread[:8])}. Expected a table ({', '.join(SUFFIXES)}; or a .txt with a header) that "
                "names each image and its caption. " + _AS_CLASSES.format(folder=self.root)
            )


def _is_harmless(name: str) -> bool:
    stem = name.lower().partition(".")[0].replace("-", "_")
    return stem in _HARMLESS or stem.endswith("_stats")


def _tables(names: Sequence[str]) -> list[str]:
    """Names of tables among the files of a folder; a file of a picture's own name belongs to that picture."""
    stems = {posixpath.splitext(name)[0] for name in names if is_picture(name)}
    return [
        name
        for name in names
        if table_kind(name) and not _is_harmless(name) and posixpath.splitext(name)[0] not in stems
    ]


def _is_text_table(path: str, beside: Sequence[str]) -> bool:
    """Whether a `.txt` is a table: its first line names columns, or begins with an image's name."""
    name = path.rpartition("/")[2]
    stem = posixpath.splitext(name)[0]
    if not name.lower().endswith(_TEXT_TABLES) or _is_harmless(name):
        return False
    if any(is_picture(other) and posixpath.splitext(other)[0] == stem for other in beside):
        return False
    head = read_text(path, errors="surrogateescape").partition("\n")[0]
    return _has_header(head) or _token_row(head) is not None


def _has_header(line: str) -> bool:
    columns = {name.strip().strip('"') for name in line.split("\t" if "\t" in line else ",")}
    return bool(columns & {*IMAGES}) and bool(columns & {*CAPTIONS})


def _token_row(line: str) -> dict[str, str] | None:
    """A line of Flickr's `results.token`: an image's name, perhaps with `#0`, a tab, and its caption."""
    name, tab, caption = line.rstrip("\r\n").partition("\t")
    name, _, number = name.partition("#")
    return (
        {"image": name, "caption": caption} if tab and is_picture(name) and number.isdecimal() | (not number) else None
    )


def _one_table(path: str, separator: str | None, images: Sequence[str]) -> Layout:
    rows = _table_rows(path, separator)
    if not rows:
        raise ValueError(f"{path} holds no rows.")
    return Layout(path, _image_root(path, rows, images), rows, f"captions from {path}")


def _table_rows(path: str, separator: str | None) -> list[Row | BrokenRow]:
    if table_kind(path) == "parquet" and tf.io.gfile.stat(path).length and holds_images(path):
        folder = path.rpartition("/")[0]
        raise ValueError(f"{path} holds images itself, or is torn: name the shards as {join(folder, '*.parquet')!r}.")
    rows = list(_rows_of(path, separator))
    refuse_hopeless(rows)
    refuse_other_encoding(rows)
    return rows


def _rows_of(path: str, separator: str | None) -> Iterable[Row | BrokenRow]:
    if not path.lower().endswith(_TEXT_TABLES):
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
    """The folder that a table's images are relative to: its own, unless the first image is elsewhere nearby."""
    folder, slash, name = table.rpartition("/")
    folder = folder or ("/" if slash else ".")
    named = (row.get(key) for row in rows if isinstance(row, Row) for key in images)
    first = next((name for name in named if name and isinstance(name, str)), "")
    if not first or "://" in first or first.startswith("/"):
        return folder
    parent = posixpath.dirname(folder) or "."
    # COCO's annotations/captions_train2017.json belongs to train2017/.
    part = posixpath.splitext(name)[0].rpartition("_")[2]
    nearby = (folder, join(folder, "images"), parent, join(parent, part), join(parent, "images"))
    return next((where for where in nearby if tf.io.gfile.exists(join(where, first))), folder)


def _tables_of_folders(tree: _Tree, tables: Sequence[str], separator: str | None, images: Sequence[str]) -> Layout:
    """Rows of a table a subfolder, with the subfolder's name as their split where it is one."""
    rows: list[Row | BrokenRow] = []
    for table in tables:
        path = join(tree.root, table)
        found = _table_rows(path, separator)
        columns = next((row.keys() for row in found if isinstance(row, Row)), None)
        if columns is not None and not {*images} & columns:
            raise ValueError(
                f"{path} names no images: expected a column one of {', '.join(images)}. Its columns: "
                f"{', '.join(map(str, columns))}. " + _AS_CLASSES.format(folder=tree.root)
            )
        folder = _image_root(path, found, images) if found else ""
        split = _split_of(table)
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


def _below(root: str, folder: str, image: Any) -> Any:
    """An image of a subfolder's table as a path below the root."""
    if not isinstance(image, str) or not image or "://" in image or image.startswith("/"):
        return image
    path = posixpath.normpath(join(folder, image))
    start = posixpath.normpath(root) + "/"
    return path[len(start) :] if path.startswith(start) else join(folder, image)


def _texts(tree: _Tree, sidecars: dict[str, str]) -> Layout:
    """Each image's caption from the file of the same name beside it; an image without one has no caption."""

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
            + _AS_CLASSES.format(folder=tree.root)
        )
    return Layout(tree.root, tree.root, rows, f"captions from {len(sidecars)} texts beside {len(rows)} images")


def _sidecar_captions(path: str) -> list[Any]:
    if not path.lower().endswith(".json"):
        with tf.io.gfile.GFile(path, "rb") as file:
            data = file.read()
        # Bytes that are not UTF-8 are kept as they are, and counted when the record is read.
        text = data.removeprefix(b"\xef\xbb\xbf").decode(errors="surrogateescape").strip()
        return [text] if text else []
    try:
        content = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {shown(error)}") from error
    value: Any = next((content[key] for key in CAPTIONS if content.get(key)), []) if isinstance(content, dict) else []
    return value if isinstance(value, list) else [value]


def _classes(tree: _Tree, chosen: bool) -> Layout:
    """A folder a class, below the folder itself or below folders named train, validation and test."""
    tops = tree.tops()
    if not tops or "" in tree.pictures:
        raise ValueError(_nothing_to_read(tree))
    as_splits = not chosen and all(top.lower() in SPLITS for top in tops)
    if chosen and len(tops) > 0 and all(top.lower() in SPLITS for top in tops):
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
                "subfolders are the classes. " + _AS_CLASSES.format(folder=tree.root)
            )
    empty = [
        top
        for top in {where.partition("/")[0] for where in tree.files if where} - tops.keys()
        if _files_below(tree, top)
    ]
    if empty and not chosen:
        raise ValueError(
            f"{join(tree.root, sorted(empty)[0])} holds no images, but {_files_below(tree, sorted(empty)[0])[:4]}: it "
            "would be no class. Move it away. " + _AS_CLASSES.format(folder=tree.root)
        )
    other = sum(name.lower().endswith(OTHER_IMAGE_SUFFIXES) for found in tree.pictures.values() for name in found)
    note = f"{len(names)} classes from the names of folders"
    if other:
        note += f"; {other} images are in formats that are not decoded (HEIC, TIFF and the like) and count as broken"
    return Layout(tree.root, tree.root, rows, note, classes=True)


def _files_below(tree: _Tree, top: str) -> list[str]:
    return [
        name
        for where, names in tree.files.items()
        if where.partition("/")[0] == top
        for name in names
        if not _is_harmless(name)
    ]


def _refuse_one_class(tree: _Tree, names: set[str], inside: Sequence[str]) -> None:
    if len(names) > 1:
        return
    (name,) = names
    below = sorted({where.partition("/")[2].partition("/")[0] for where in inside} - {""})
    hint = f"The classes may be {', '.join(below[:4])}: name {join(tree.root, name)}. " if len(below) > 1 else ""
    raise ValueError(
        f"{tree.root} has the one folder {name!r} of images and no captions, so that each of {tree.count} images would "
        f"get the caption {name!r}. {hint}Expected a table ({', '.join(SUFFIXES)}), a .txt beside each image, or a "
        "folder a class. " + _AS_CLASSES.format(folder=tree.root)
    )


def _nothing_to_read(tree: _Tree) -> str:
    """Why a folder holds no rows."""
    names = [posixpath.join(where, name) for where, found in tree.files.items() for name in found]
    archives = [name for name in names if archive_of(name)]
    shards = [name for name in names if shard_kind(name)]
    if tree.pictures:
        count = len(tree.pictures.get("", ()))
        return (
            f"{tree.root} holds {count} images without captions: expected a table ({', '.join(SUFFIXES)}), a .txt "
            "beside each image, or a folder a class."
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
            f"{tree.root} holds no rows that are read here, but Arrow files ({arrow}), as `save_to_disk` of Hugging "
            "Face's datasets writes them: write Parquet files by `dataset.to_parquet(PATH)`."
        )
    there = ", ".join(names[:6]) or "nothing"
    return f"{tree.root} holds no rows: expected images with captions, or shards. It holds {there}."
