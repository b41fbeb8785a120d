"""The report of a run as one HTML file: results with chance and baselines, curves, and the pictures found."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from siglip_tf import pages
from siglip_tf.experiments.report.charts import Series, line_chart
from siglip_tf.storage import write_file


@dataclass(frozen=True)
class Figure:
    """One row of the table: a result from 0 to 1, with the value of chance, a goal, and the values of baselines."""

    name: str
    value: float
    chance: float
    goal: float | None = None
    note: str = ""
    baselines: Mapping[str, float] = field(default_factory=dict)

    @property
    def reached(self) -> bool | None:
        """Whether the goal is reached, or None if there is no goal."""
        return None if self.goal is None else self.value >= self.goal

    @property
    def winners(self) -> list[str]:
        """The baselines that are better."""
        return [name for name, value in self.baselines.items() if value > self.value]


@dataclass(frozen=True)
class Found:
    """A text and the encoded pictures that it found, best first, each with whether it is right."""

    query: str
    pictures: Sequence[tuple[bytes, bool]]


@dataclass(frozen=True)
class Asked:
    """A picture that was shown to the exported model, the truth, and the answers: label, share, and probability."""

    picture: bytes
    truth: str
    answers: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Mistake:
    """A picture with a wrong answer."""

    picture: bytes
    truth: str
    answer: str


@dataclass
class Page:
    """Everything on the page.

    Attributes:
        warning: what a reader must know first, for example that a baseline is better.
        advice: sentences that say what to try next.
        metrics: the lines of the run's `metrics.jsonl`.
        faults: the faults of the training data, each with the number of records.
        facts: names and values of further facts about the run.
    """

    title: str
    summary: str
    tiles: Sequence[tuple[str, str]]
    figures: Sequence[Figure]
    metrics: Sequence[Mapping[str, Any]]
    warning: str = ""
    advice: Sequence[str] = ()
    found: Sequence[Found] = ()
    found_note: str = ""
    asked: Sequence[Asked] = ()
    mistakes: Sequence[Mistake] = ()
    mistakes_note: str = ""
    faults: Sequence[tuple[str, int]] = ()
    facts: Sequence[tuple[str, str]] = field(default_factory=tuple)

    def write(self, path: str | os.PathLike) -> None:
        """Writes the page."""
        write_file(path, self.to_html())

    def to_html(self) -> str:
        """Returns the page as HTML."""
        shown = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "metrics"}
        baselines = list(dict.fromkeys(name for figure in self.figures for name in figure.baselines))
        return pages.render("run.html", __package__, charts=self._charts(), baselines=baselines, **shown)

    def _charts(self) -> list[dict[str, Any]]:
        """Returns the title, legend, and SVG of each chart that has values."""
        charts = [
            ("Loss", ["loss"], False, None),
            *((name, [name], False, None) for name in self._evaluated()),
            ("Norm of the gradient", ["gradient_norm"], True, None),
            ("Temperature t", ["temperature"], False, None),
            ("Bias b", ["bias"], False, None),
            ("Mean logit of matching and of other pairs", ["positive_logit", "negative_logit"], False, 0.0),
            ("Images per second", ["images_per_second"], False, None),
        ]
        drawn = []
        for title, names, log_y, reference in charts:
            series = [line for line in (self._series(name, log_y) for name in names) if line.x]
            if series:
                legend = [line.name for line in series] if len(series) > 1 else []
                svg = line_chart(series, "step", log_y, reference)
                drawn.append({"title": title, "legend": legend, "svg": svg})
        return drawn

    def _evaluated(self) -> list[str]:
        """Returns the names of evaluation metrics. They contain a slash, as in `zero_shot/birds/top1`."""
        names = [name for line in self.metrics for name in line if "/" in name]
        return list(dict.fromkeys(names))[:4]

    def _series(self, name: str, log_y: bool) -> Series:
        points = [(line["step"], line[name]) for line in self.metrics if isinstance(line.get(name), int | float)]
        points = [(x, y) for x, y in points if y > 0 or not log_y]
        label = {"positive_logit": "matching", "negative_logit": "other"}.get(name, name)
        return Series(label, [x for x, _ in points], [y for _, y in points])
