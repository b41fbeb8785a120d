"""Names that columns of tables commonly have, and the choice among them."""

from collections.abc import Iterable, Sequence

IMAGES = (
    "image", "file_name", "filepath", "path", "filename", "image_path", "image_file_name", "file", "img", "img_path",
    "image_file",
)  # fmt: skip
CAPTIONS = ("captions", "caption", "text", "txt", "title")


def choose(columns: Iterable[str], given: str | None, known: Sequence[str], where: str) -> str:
    """The column `given`, or else the first of the known names that is there.

    Raises:
        ValueError: it is not there, or none of them is.
    """
    names = [*map(str, columns)]
    for name in known if given is None else [given]:
        if name in names:
            return name
    wanted = repr(given) if given is not None else f"one of {', '.join(known)}"
    there = ", ".join(name if len(name) <= 40 else name[:40] + "..." for name in names[:20])
    raise ValueError(f"Expected a column {wanted} in {where}. Its columns: {there}")
