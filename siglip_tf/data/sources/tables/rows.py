"""Rows of a folder or table: dictionaries that know their place in the table, and rows that are broken."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from siglip_tf.data.order.bad_records import Cause

SHOWN = 80


class Row(dict[str, Any]):
    """The cells of a row by column.

    Args:
        cells: a mapping or pairs.
        path: the path of the table.
        number: the number of the row's line or entry.
        unit: what `number` counts: "line", "entry" (of a JSON document), or "row".
    """

    def __init__(self, cells: Mapping[str, Any] | Iterable[Any], path: str, number: int, unit: str = "line"):
        super().__init__(cells)
        self.path, self.number, self._unit = path, number, unit

    @property
    def where(self) -> str:
        """The place of the row for messages, such as "line 7"."""
        return f"{self._unit} {self.number}"

    def with_cells(self, cells: Mapping[str, Any]) -> "Row":
        """Returns a row with other cells at the same place."""
        return Row(cells, self.path, self.number, self._unit)

    def broken(self, problem: str, cause: Cause = Cause.BROKEN_ROW) -> "BrokenRow":
        """Returns a broken row at the same place."""
        return BrokenRow(self.path, self.number, problem, self._unit, cause)


@dataclasses.dataclass(frozen=True)
class BrokenRow:
    """A row that cannot be used: a broken record.

    Attributes:
        path: the path of the table.
        number: the number of the row's line or entry.
        problem: what is wrong, for people.
        unit: what `number` counts; see `Row`.
        cause: the cause in reports.
        split: the split that the row belongs to, if known.
    """

    path: str
    number: int
    problem: str
    unit: str = "line"
    cause: Cause = Cause.BROKEN_ROW
    split: str | None = None

    def __str__(self) -> str:
        return f"{self.path}, {self.unit} {self.number}: {self.problem}"


def shown(value: Any) -> str:
    """Returns a short text of a value for an error message, without the bytes of images."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {shown(item)}" for key, item in [*value.items()][:8]) + "}"
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if isinstance(value, list):
        return "[" + ", ".join(map(shown, value[:4])) + ", ..." * (len(value) > 4) + "]"
    text = repr(value) if not isinstance(value, Exception) else str(value)
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."


@dataclasses.dataclass(frozen=True)
class Layout:
    """The rows of a folder or table.

    Attributes:
        where: the folder or table, for messages.
        root: the folder that the rows' images are relative to.
        rows: a dictionary by column for each pair or image, and broken rows among them.
        note: one line that says what was read.
        classes: whether the "label" of each row is the name of its folder.
    """

    where: str
    root: str
    rows: Sequence[Row | BrokenRow]
    note: str
    classes: bool = False
