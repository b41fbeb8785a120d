"""Common names of the columns of tables, and the choice among them."""

from collections.abc import Iterable, Sequence

IMAGES = (
    "image", "file_name", "filepath", "path", "filename", "image_path", "image_file_name", "file", "img", "img_path",
    "image_file",
)  # fmt: skip
CAPTIONS = ("captions", "caption", "text", "txt", "title")


def choose(columns: Iterable[str], given: str | None, known: Sequence[str], where: str) -> str:
    """Returns the column `given` or, if it is None, the first of the known names that the table has.

    Raises:
        ValueError: the table has no such column.
    """
    names = [*map(str, columns)]
    for name in known if given is None else [given]:
        if name in names:
            return name
    wanted = repr(given) if given is not None else f"one of {', '.join(known)}"
    there = ", ".join(name if len(name) <= 40 else name[:40] + "..." for name in names[:20])
    raise ValueError(f"Expected a column {wanted} in {where}. Its columns: {there}")
