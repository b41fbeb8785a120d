"""The result of a task: metrics, chance, and examples to look at."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Answer:
    """One ranked answer to a query: an image (its index in the set) or a text."""

    right: bool
    logit: float
    text: str | None = None
    image: int | None = None


@dataclass(frozen=True)
class Query:
    """A query image or text, with the model's first answers and the rank of the right answer (0 is first)."""

    rank: int
    answers: tuple[Answer, ...]
    text: str | None = None
    image: int | None = None


@dataclass(frozen=True)
class TaskResult:
    """The metrics of one task.

    Attributes:
        task: the name of the task, for example "zero_shot/birds".
        kind: "zero_shot", "retrieval", or "few_shot".
        images: the number of evaluated images.
        metrics: values from 0 to 1 by name.
        chance: the values that guessing gives, for some of the metrics.
        seconds: the wall-clock time in seconds, including the embedding.
        notes: what a reader must know, for example that images are left out.
        rows: a table by class, language, or seed: the name of the row, then values by metric.
        confusions: tuples of right class, predicted class, and count, most frequent first.
        queries: examples by heading.
        images_of: the `ImageSet` to which the indices in `queries` refer.
    """

    task: str
    kind: str
    images: int
    metrics: dict[str, float]
    chance: dict[str, float]
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    rows: dict[str, dict[str, float]] = field(default_factory=dict)
    confusions: tuple[tuple[str, str, int], ...] = ()
    queries: dict[str, tuple[Query, ...]] = field(default_factory=dict)
    images_of: Any = None

    def to_dict(self) -> dict[str, Any]:
        """Returns everything except the examples, as JSON values."""
        names = ("task", "kind", "images", "metrics", "chance", "seconds", "notes", "rows", "confusions")
        return {name: getattr(self, name) for name in names}

    def logs(self) -> dict[str, float]:
        """Returns the metrics as a Keras callback logs them, with names of the form `task/metric`."""
        return {f"{self.task}/{name}": value for name, value in self.metrics.items()}


def table(results: Sequence[TaskResult]) -> str:
    """Returns a plain-text table of metrics with values and chance in percent, followed by each task's own rows."""
    lines = [("task", "metric", "value", "chance", "images")]
    for result in results:
        for name, value in result.metrics.items():
            chance = result.chance.get(name)
            shown = "" if chance is None else f"{100 * chance:.2f}"
            lines.append((result.task, name, f"{100 * value:.2f}", shown, str(result.images)))
    text = [_aligned(lines, right=(2, 3, 4))]
    for result in results:
        if result.kind == "retrieval" and result.rows:
            columns = list(next(iter(result.rows.values())))
            rows = [(result.task, *columns)]
            rows += [(name, *(f"{100 * row[c]:.2f}" for c in columns)) for name, row in result.rows.items()]
            text.append(_aligned(rows, right=range(1, len(columns) + 1)))
        text += [f"{result.task}: {note}" for note in result.notes]
    return "\n\n".join(text)


def _aligned(rows: Sequence[Sequence[str]], right: Sequence[int]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]

    def line(row: Sequence[str]) -> str:
        cells = (c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        return "  ".join(cells).rstrip()

    return "\n".join([line(rows[0]), "  ".join("-" * w for w in widths), *(line(row) for row in rows[1:])])
