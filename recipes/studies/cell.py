"""A cell: one computation of a study, kept by its settings and by the source code that its result depends on.

A cell's folder is named by a hash of its kind and settings. `result.json` is written last, so a cell is either complete
or missing. The file also holds a hash of the source code that made the result. When that code changes, the cell is
stale and is computed again.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from siglip_tf.storage import write_file

from .source import digests


@dataclasses.dataclass(frozen=True)
class Kind:
    """How cells of one kind are computed.

    Attributes:
        source: files and folders whose code decides the result, see `source.digests`.
        compute: (settings, folder of the cell, folder of all cells) -> result that JSON can hold.
        needs: cells that must be computed first.
        cost: estimated seconds on one core.
        summary: of a result, for the progress line.
        group: cells of one group are cheaper in one process, one after the other.
    """

    source: tuple[str, ...]
    compute: Callable[[Mapping[str, Any], Path, Path], dict[str, Any]]
    needs: Callable[[Mapping[str, Any]], list[Cell]]
    cost: Callable[[Mapping[str, Any]], float]
    summary: Callable[[Mapping[str, Any]], str]
    group: Callable[[Mapping[str, Any]], str] = lambda settings: ""


# By name; `kinds` fills it.
KINDS: dict[str, Kind] = {}


@dataclasses.dataclass(frozen=True)
class Cell:
    """One computation of a study.

    Attributes:
        kind: a name in `KINDS`.
        settings: everything that decides the result and that JSON can hold, the seed included.
        label: what people read of it; decides nothing.
    """

    kind: str
    settings: Mapping[str, Any]
    label: str = ""

    @functools.cached_property
    def key(self) -> str:
        """The same kind and settings give the same key."""
        content = json.dumps([self.kind, self.settings], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    @property
    def needs(self) -> list[Cell]:
        """Returns the cells that must be computed first."""
        return KINDS[self.kind].needs(self.settings)

    @property
    def cost(self) -> float:
        """Returns the estimated seconds on one core."""
        return KINDS[self.kind].cost(self.settings)

    @property
    def group(self) -> str:
        """Cells of one group are cheaper in one process; "" for no group."""
        return KINDS[self.kind].group(self.settings)

    @functools.cached_property
    def source(self) -> dict[str, str]:
        """Returns hashes of the code that the result depends on, including the code of the needed cells."""
        return digests(_parts(self))

    def folder(self, root: Path) -> Path:
        """Returns the folder of the cell's files."""
        return root / "cells" / f"{self.kind}-{self.key}"

    def result(self, root: Path) -> dict[str, Any] | None:
        """Returns the result, or None if the cell is not computed yet or is stale."""
        whole = self._read(root)
        return None if whole is None or whole.get("source") != self.source else whole["result"]

    def changes(self, root: Path) -> list[str]:
        """Parts of the source that changed since the cell was computed; empty if it is current or not computed."""
        whole = self._read(root)
        if whole is None:
            return []
        before = whole.get("source", {})
        return sorted(part for part in before.keys() | self.source.keys() if before.get(part) != self.source.get(part))

    def worked(self, root: Path) -> float:
        """Returns the processor seconds that the cell took, or 0 if that is unknown."""
        whole = self._read(root)
        return 0.0 if whole is None else whole.get("processor_seconds", 0.0)

    def _read(self, root: Path) -> dict[str, Any] | None:
        path = self.folder(root) / "result.json"
        return json.loads(path.read_text()) if path.exists() else None


# By key and kind: thousands of cells need the same few.
_PARTS: dict[tuple[str, int], frozenset[str]] = {}


def _parts(cell: Cell) -> frozenset[str]:
    """Returns the files and folders that the result depends on, including those of the needed cells."""
    kind = KINDS[cell.kind]
    place = cell.key, id(kind)
    if place not in _PARTS:
        _PARTS[place] = frozenset(kind.source).union(*(_parts(needed) for needed in cell.needs))
    return _PARTS[place]


def write_result(cell: Cell, root: Path, result: dict[str, Any], seconds: float, worked: float = 0.0) -> None:
    """Writes `result.json`.

    Args:
        cell: that was computed.
        root: of all cells.
        result: JSON-able.
        seconds: that it took.
        worked: seconds of the processor; they say more than `seconds` where other programs run beside.
    """
    whole = {
        "kind": cell.kind,
        "settings": cell.settings,
        "source": cell.source,
        "seconds": round(seconds, 2),
        "processor_seconds": round(worked, 2),
        "result": result,
    }
    write_file(cell.folder(root) / "result.json", json.dumps(whole, indent=1) + "\n")


def with_requirements(cells: Iterable[Cell]) -> list[Cell]:
    """Returns the cells and all cells that they need, each once, dependencies first."""
    ordered: dict[str, Cell] = {}

    def visit(cell: Cell) -> None:
        if cell.key not in ordered:
            for needed in cell.needs:
                visit(needed)
            ordered[cell.key] = cell

    for cell in cells:
        visit(cell)
    return list(ordered.values())
