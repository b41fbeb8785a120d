"""What a study is: a question of the paper, its cells, and what its results say."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .cell import Cell
from .choice import shown
from .verdict import FIRST_LOOK, SECOND_LOOK, Estimate, Verdict, need_more, text_of

ROOT = Path("runs") / "studies"
SEEDS = FIRST_LOOK

# label of a row -> seed -> cell
Rows = Mapping[str, Callable[[int], Cell]]


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of text below a header, with a sentence that describes them."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclasses.dataclass(frozen=True)
class Picture:
    """A figure: its file's name without ending, what stands below it, and a function that draws it to a path."""

    name: str
    caption: str
    draw: Callable[[Path], None]


@dataclasses.dataclass(frozen=True)
class Findings:
    """The results of a study; `advice` is a sentence for users."""

    tables: Sequence[Table]
    pictures: Sequence[Picture]
    verdicts: Sequence[Verdict]
    notes: Sequence[str] = ()
    advice: str = ""


@dataclasses.dataclass(frozen=True)
class PaperRow:
    """A run of the study as the paper made it.

    Attributes:
        label: as in the paper.
        recipe: file of `recipes/` with a `tpu_subject`.
        chips: a slice, such as "v4:2x2x4".
        batch: global batch.
        examples: seen in the whole run.
        overrides: settings of the recipe, or arguments of `SigLIP`, that are other ones.
        setup: of the recipe; its default one otherwise.
    """

    label: str
    recipe: str
    chips: str
    batch: int
    examples: float
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    setup: str | None = None


class Results:
    """Results of a study's rows by label and seed; during a sweep, those that are computed so far.

    Attributes:
        missing: cells of the first look that are not computed.
    """

    def __init__(self, rows: Rows, seeds: int, root: Path, most: int | None = None):
        cells = {label: {seed: cell_of(seed) for seed in range(most or seeds)} for label, cell_of in rows.items()}
        found = {label: {seed: cell.result(root) for seed, cell in those.items()} for label, those in cells.items()}
        self._found = {
            label: {seed: result for seed, result in results.items() if result is not None}
            for label, results in found.items()
        }
        open_cells = (cells[label][seed] for label in cells for seed in range(seeds) if seed not in self._found[label])
        self.missing = len({cell.key for cell in open_cells})

    def of(self, label: str) -> dict[int, dict[str, Any]]:
        """Returns the results of a row by seed."""
        return self._found[label]

    def values(self, label: str, *path: str) -> dict[int, float]:
        """One figure of a row by seed, such as `values(label, "final", "zero_shot")`; not of runs that lost it."""
        found = {seed: _at(result, path) for seed, result in self._found[label].items()}
        return {seed: value for seed, value in found.items() if value is not None}

    def estimate(self, label: str, *path: str) -> Estimate | None:
        """Mean and error of a figure; None before the first cell of the row."""
        values = list(self.values(label, *path).values())
        return Estimate.of(values) if values else None

    def text(self, label: str, *path: str, scale: float = 1.0, digits: int = 1) -> str:
        """ "71.2 ± 0.8", or a dash."""
        return text_of(self.values(label, *path).values(), scale, digits)

    def chosen(self, label: str) -> str:
        """The settings that a row's runs were given by their choice, or a dash."""
        for result in self._found[label].values():
            if result["chosen"]:
                return shown(result["chosen"])
        return "-"

    def first(self, label: str, name: str) -> dict[int, float]:
        """A figure of a row's first evaluation by seed."""
        return {seed: result["evaluations"][0][name] for seed, result in self._found[label].items()}

    def over_run(self, label: str, name: str) -> tuple[list[int], list[Estimate]]:
        """Pairs seen at each of a row's evaluations, and a figure's mean and error there.

        A run that diverged is not evaluated again and keeps its last figure.
        """
        runs = [result["evaluations"] for result in self._found[label].values()]
        if not runs:
            return [], []
        whole = max(runs, key=len)
        estimates = [Estimate.of([run[min(i, len(run) - 1)][name] for run in runs]) for i in range(len(whole))]
        return [evaluation["examples"] for evaluation in whole], estimates


def _at(value, path):
    for name in path:
        value = value[name]
    return value


@dataclasses.dataclass(frozen=True)
class Study:
    """A question of the paper.

    Attributes:
        name: of its module and of its files.
        title: as a heading.
        paper: where it stands there.
        question: what is asked, and what the paper found; Markdown.
        setup: how it is asked here; Markdown.
        rows: cells by label and seed.
        findings: from the results.
        paper_rows: the runs at the paper's scale; none of a study that the paper does not have.
        one_seed: whether seeds mean nothing to it.
    """

    name: str
    title: str
    paper: str
    question: str
    setup: str
    rows: Callable[[], Rows]
    findings: Callable[[Results], Findings]
    paper_rows: Callable[[], Sequence[PaperRow]] = tuple
    one_seed: bool = False

    def cells(self, seeds: int) -> list[Cell]:
        """All cells, each once, those of a row together."""
        found = [cell_of(seed) for cell_of in self.rows().values() for seed in range(self.seeds(seeds))]
        return list({cell.key: cell for cell in found}.values())

    def cost(self, seeds: int) -> float:
        """Estimated seconds of all cells on one core."""
        return sum(cell.cost for cell in self.cells(seeds))

    def seeds(self, asked: int) -> int:
        """Returns the number of seeds of the study."""
        return 1 if self.one_seed else asked

    def results(self, seeds: int, root: Path) -> Results:
        """Returns the results that are computed so far."""
        return Results(self.rows(), self.seeds(seeds), root, self.seeds(max(seeds, SECOND_LOOK)))

    def second_look(self, seeds: int, root: Path) -> list[Cell]:
        """The cells that the stopping rule asks for after the first look: more seeds of the rows of open claims."""
        if self.one_seed:
            return []
        rows = self.rows()
        wanted = need_more(self.findings(self.results(seeds, root)).verdicts)
        return [rows[label](seed) for label in rows if label in wanted for seed in range(seeds, SECOND_LOOK)]
