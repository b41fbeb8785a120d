"""The files below a folder: which are pictures, which are tables of captions, and which can be ignored."""

import posixpath
from collections.abc import Iterable, Sequence

from siglip_tf.data.sources.listing import is_picture
from siglip_tf.data.sources.paths import join
from siglip_tf.data.sources.tables.reading import SUFFIXES, table_kind

# Names that Hugging Face, torchvision, and others give to the splits of a data set.
_SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
SPLITS = {name: split for split, names in _SPLIT_NAMES.items() for name in names}

# Files beside class folders that hold no captions, by the first word of their names.
_HARMLESS = {
    "readme", "license", "licence", "notice", "copying", "changelog", "citation", "attribution", "credits", "authors",
    "requirements", "classes", "labels", "class_names", "names", "synsets", "words", "checksums", "md5sums",
    "sha256sums", "dataset_info", "dataset_infos", "dataset_dict", "state", "config", "class_to_idx", "classes_to_idx",
    "idx_to_class", "label_map",
}  # fmt: skip
# Files that may hold captions or images but are not read from a folder of image files.
_NOT_READ = (
    ".txt", ".text", ".token", ".xml", ".xls", ".xlsx", ".ods", ".yaml", ".yml", ".pkl", ".pickle", ".npy", ".npz",
    ".h5", ".hdf5", ".arrow", ".feather", ".db", ".sqlite", ".sqlite3", ".mdb", ".lmdb", ".mat",
)  # fmt: skip
_SIDECARS = (".txt", ".caption", ".json")
AS_CLASSES = "To read the subfolders as classes all the same, write {folder}?kind=classes."


class Tree:
    """A folder's files that are not hidden, by the path of their subfolder below the folder; "" comes first."""

    def __init__(self, root: str, folders: Iterable[tuple[str, list[str]]]):
        self.root = root
        listed = list(folders)
        self.files = {where[len(listed[0][0]) :].strip("/"): names for where, names in listed}
        self.pictures = {
            where: found for where, names in self.files.items() if (found := [n for n in names if is_picture(n)])
        }

    @property
    def count(self) -> int:
        """Number of pictures."""
        return sum(map(len, self.pictures.values()))

    def tops(self) -> dict[str, list[str]]:
        """Returns, for each first-level folder with pictures below it, the paths of the folders with pictures."""
        tops: dict[str, list[str]] = {}
        for where in self.pictures:
            if where:
                tops.setdefault(where.partition("/")[0], []).append(where)
        return tops

    def tables(self) -> list[str]:
        """Returns the paths, below the folder, of the tables in its subfolders.

        Raises:
            ValueError: a subfolder holds several tables.
        """
        found = []
        for where, names in self.files.items():
            tables = [name for name in table_names(names) if where]
            if len(tables) > 1:
                raise ValueError(
                    f"{join(self.root, where)} holds several tables: name one of "
                    f"{[join(join(self.root, where), name) for name in tables[:8]]}."
                )
            found += [posixpath.join(where, name) for name in tables]
        return found

    def sidecars(self) -> dict[str, str]:
        """Maps each picture to the text file of the same stem beside it, if there is one. Paths are below the folder.

        Raises:
            ValueError: fewer than half of the pictures have such a file.
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
                + AS_CLASSES.format(folder=self.root)
            )
        return found

    def refuse_unread(self) -> None:
        """Raises a ValueError if a file in the folder itself may hold captions but cannot be read."""
        unread = [name for name in self.files[""] if name.lower().endswith(_NOT_READ) and not is_harmless(name)]
        if unread and self.count:
            raise ValueError(
                f"{self.root} holds files that may hold the images' captions and are not understood: "
                f"{', '.join(unread[:8])}. Expected a table ({', '.join(SUFFIXES)}; or a .txt with a header) that "
                "names each image and its caption. " + AS_CLASSES.format(folder=self.root)
            )


def split_of(path: str) -> str | None:
    """Returns the split of a path below the folder: by its first folder or, for a table, by its own name."""
    return SPLITS.get(path.partition("/")[0].partition(".")[0].lower())


def is_harmless(name: str) -> bool:
    """Says whether a file's name is that of a file without captions, such as a README."""
    stem = name.lower().partition(".")[0].replace("-", "_")
    return stem in _HARMLESS or stem.endswith("_stats")


def table_names(names: Sequence[str]) -> list[str]:
    """Returns the names of the tables among a folder's files. A file with a picture's name belongs to the picture."""
    stems = {posixpath.splitext(name)[0] for name in names if is_picture(name)}
    return [
        name
        for name in names
        if table_kind(name) and not is_harmless(name) and posixpath.splitext(name)[0] not in stems
    ]
